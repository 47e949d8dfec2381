import pytest
import torch
from torch.nn import functional

from forecast.models import operators

ROWS, TARGETS, SOURCES, NEIGHBOURS, HEADS, WIDTH, CHANNELS = 3, 20, 15, 5, 2, 4, 3


@pytest.fixture
def attention_inputs():
    generator = torch.Generator().manual_seed(0)
    table = torch.randint(0, SOURCES, (TARGETS, NEIGHBOURS), generator=generator)
    shapes = ((ROWS, TARGETS, HEADS, WIDTH), (ROWS, SOURCES, 2, HEADS, WIDTH), *[(TARGETS, HEADS, NEIGHBOURS)] * 2)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes], table


@pytest.fixture
def norm_inputs():
    generator = torch.Generator().manual_seed(0)
    shapes = ((ROWS * TARGETS, WIDTH), (ROWS * TARGETS, CHANNELS), (CHANNELS, 2, WIDTH), (2, WIDTH))
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def attend_by_gathering(query, key_value, bias, gate, table):
    key, value = key_value[:, table].unbind(3)  # (B, N, K, H, D)
    weight = (torch.einsum("bnhd,bnkhd->bnhk", query, key) + bias).softmax(-1) * gate
    return torch.einsum("bnhk,bnkhd->bnhd", weight, value)


def norm_by_parts(x, condition, weight, bias):
    scale, shift = (torch.einsum("rc,cpd->prd", condition, weight) + bias[:, None]).unbind(0)
    return functional.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift


def assert_same(ours, theirs, leaves):
    torch.testing.assert_close(ours, theirs)
    cotangent = torch.randn_like(ours)
    # float32 sums of up to 60 rows in another order
    for a, b in zip(*(torch.autograd.grad(out, leaves, cotangent) for out in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_attention_equals_gathering(attention_inputs, threads):
    leaves, table = attention_inputs
    assert_same(operators.attend(*leaves, table), attend_by_gathering(*leaves, table), leaves)


def test_conditional_norm_equals_its_parts(norm_inputs, threads):
    assert_same(operators.conditional_norm(*norm_inputs), norm_by_parts(*norm_inputs), norm_inputs)


def test_what_other_devices_run_equals_the_loops(attention_inputs, norm_inputs):
    leaves, table = attention_inputs
    leaves = [leaf.detach() for leaf in leaves]
    query, key_value, _, gate = leaves
    out, weight = operators._attend(*leaves, table)
    x, condition, scale, bias = (leaf.detach() for leaf in norm_inputs)
    _, moments = operators._conditional_norm(x, condition, scale, bias)
    for op, arguments in (
        (operators._attend, (*leaves, table)),
        (operators._attend_backward, (out, query, key_value, weight, gate, table)),
        (operators._conditional_norm, (x, condition, scale, bias)),
        (operators._conditional_norm_backward, (x * 2, x, condition, moments, scale, bias)),
    ):
        torch.testing.assert_close(op._init_fn(*arguments), op(*arguments), atol=2e-5, rtol=1e-4)


def test_operators_are_fit_for_tracing(attention_inputs, norm_inputs):
    leaves, table = attention_inputs
    torch.library.opcheck(operators._attend, (*leaves, table))
    torch.library.opcheck(operators._conditional_norm, tuple(norm_inputs))


def test_half_precision_is_computed_in_float32(attention_inputs, norm_inputs):
    leaves, table = attention_inputs
    half = [leaf.detach().bfloat16() for leaf in leaves]
    with torch.autocast("cpu", torch.bfloat16):
        out = operators.attend(*half, table)
    assert torch.equal(out, operators.attend(*(x.float() for x in half), table))
    assert operators.conditional_norm(norm_inputs[0].bfloat16(), *norm_inputs[1:]).dtype == torch.float32
