"""What a mask leaves out is not looked at, and no samples are a zero with a graph: regression, teaching and others."""

import pytest
import torch

from forecast.losses import registry
from tests.losses import laws
from tests.losses.laws import Case, normal


def labels(n):
    return torch.arange(n) % 4


def images(n):
    return normal(n, 5, 6).sigmoid(), normal(n, 5, 6, seed=1).sigmoid()


def case(name, inputs, **settings):
    return Case(name, registry.entry(name).make.function, inputs, settings)


def two(n):
    return normal(n, 4), normal(n, 4, seed=1)


def three(n):
    return *two(n), normal(n, 4, seed=2)


def leads(n):
    return normal(n, 2, 3), normal(n, 2, 3, seed=1), normal(n, 2, 4), normal(n, 2, 4, seed=3)


CASES = [
    *(case(name, two) for name in ("mse", "mae", "huber", "log_cosh", "soft_targets", "binary_kl", "binary_kl_norm")),
    *(case(name, two) for name in ("kl_top", "petal", "hinge_discriminator")),
    case("kl_top", two, k=2, other=True),
    case("self_distillation", three),
    case("marginal_consistency", three),
    case("score_forgetting", three),
    case("hinge_generator", lambda n: (normal(n, 4),)),
    case("assistive_teacher_regression", lambda n: (*three(n), normal(n, 4, seed=3))),
    case("norm_direction", lambda n: (*two(n), labels(n), normal(4, 4, seed=2))),
    case("module_distillation", lambda n: (*two(n), labels(n))),
    case("dual_head", lambda n: (*three(n), labels(n))),
    case("masked_instances", lambda n: (*two(n), labels(n))),
    case("shifted_distillation", lambda n: (*two(n), 9 * normal(n, 4), 9 * normal(n, 4), normal(n, 4, seed=4))),
    case("multi_horizon_consistency", leads),
    case("adc_discriminator", lambda n: (normal(n, 8), normal(n, 8, seed=1), labels(n), labels(n))),
    case("adc_generator", lambda n: (normal(n, 8), labels(n))),
    case("betti_matching", images, from_logits=False),
    case("multi_persistence", lambda n: tuple(x[:, None] for x in images(n))),
    case("group_progressive_guidance", lambda n: (normal(n, 3, 4).transpose(0, 1), labels(n))),
]


@pytest.mark.parametrize("case", [c for c in CASES if c.name != "group_progressive_guidance"], ids=str)
def test_masked_is_not_looked_at(case):
    laws.masked_is_not_looked_at(case)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_no_samples_are_zero(case):
    laws.empty_is_zero(case)
