"""What a forecaster costs, without running it: parameters, floating-point operations, and memory of a training step.

The very code that trains is led through once with tensors that have shapes and types but no numbers (torch's fake
tensors); operators of our own run as on a GPU, in torch. Two modes look on: one adds up the operations of matrix
products and attention, the other the bytes of the tensors that are alive.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from forecast.data.batch import Batch
from forecast.models import mlp, residual, sliding
from forecast.models.base import Forecaster
from forecast.models.terms import Terms


@dataclass(frozen=True)
class Cost:
    """Of one update or step.

    Attributes:
        operations: floating-point operations of matrix products and dense attention, recomputation included.
        memory: bytes, at their peak, of all tensors but weights, gradients and the optimiser's.
    """

    operations: float
    memory: float


@contextmanager
def weightless() -> Iterator[None]:
    """Parameters of modules built within take no memory: they are on the meta device."""
    with _Weightless():
        yield


class _Weightless(TorchFunctionMode):
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.empty:
            kwargs["device"] = "meta"
        return function(*args, **kwargs)


def update(model: Forecaster, samples: int, members: int, rollouts: Sequence[int], precision: str) -> list[Cost]:
    """Of the loss of `samples` x `members` and its gradient, for several lengths of rollout.

    Costs grow linearly with the rollout from its second step on, where members have states of their own: those of more
    than 3 steps follow from those of 2 and 3.
    """
    lengths = {min(n, 3) for n in rollouts} | ({2} if max(rollouts) > 3 else set())
    known = {n: _update(model, samples, members, n, precision) for n in lengths}
    return [known[n] if n in known else _further(known[2], known[3], n - 3) for n in rollouts]


def _further(second: Cost, third: Cost, more: int) -> Cost:
    operations, memory = third.operations - second.operations, third.memory - second.memory
    return Cost(third.operations + more * operations, third.memory + more * memory)


def step(model: Forecaster, members: int, precision: str) -> Cost:
    """Of one step of a forecast."""

    def run(fake: Forecaster, batch: Batch) -> None:
        with torch.no_grad():
            window = batch.states[:, None, : batch.input_steps].expand(-1, members, -1, -1, -1)
            fake.step(window, batch.forcings[:, 0], False, fake._noise(batch.keys, members, 0))

    return _counted(model, run, 1, 1, precision)


def _update(model: Forecaster, samples: int, members: int, rollout: int, precision: str) -> Cost:
    def run(fake: Forecaster, batch: Batch) -> None:
        fake.training_loss(batch, members, batch.keys)["loss"].backward()

    return _counted(model, run, samples, rollout, precision)


def _counted(
    model: Forecaster, run: Callable[[Forecaster, Batch], None], samples: int, rollout: int, precision: str
) -> Cost:
    with FakeTensorMode(allow_non_fake_inputs=True), _as_on_a_gpu():
        fake = _without_numbers(model, "bfloat16" if precision == "auto" else precision)
        meter = Meter()
        with meter, OwnOperators():
            run(fake, _batch(fake, samples, rollout))
        gradients = sum(p.grad.nbytes for p in fake.parameters() if p.grad is not None)
    return Cost(meter.operations, meter.peak - gradients)


class Meter(TorchDispatchMode):
    """Adds up operations, counts the bytes of the tensors that are alive, and remembers the most.

    Attributes:
        operations: of matrix products and attention. now, peak: bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        count = COUNTS.get(function._overloadpacket)
        if count is not None:
            self.operations += count(*args, **(kwargs or {}), out_val=out)
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return out

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, which: int, size: int) -> None:
        self._known.discard(which)
        self.now -= size


class OwnOperators(TorchDispatchMode):
    """Runs operators of our own as they run where there is no kernel for them: in torch."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "namespace", "") == "forecast":
            body = torch._library.custom_ops.OPDEFS[f"forecast::{function._opname}"]._init_fn
            return body(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


@contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    """What depends on the device as a GPU has it: fake tensors say that they are on the CPU, where autocast works."""
    with (
        patch.object(sliding, "attend", sliding._in_batch),
        patch.object(residual.SparseProduct, "forward", _as_large),
        patch.object(functional, "scaled_dot_product_attention", _fused),
        patch.dict(mlp.MIDDLE, clear=True),
    ):
        yield


def _fused(query: Tensor, key: Tensor, value: Tensor, attn_mask: Any = None, **options: Any) -> Tensor:
    """Attention that forms no matrix of all pairs, as a GPU's kernels; of shapes and memory, whatever the mask."""
    parts = [part.flatten(0, -4) for part in (query, key, value)]
    if torch.is_autocast_enabled("cpu"):
        parts = [part.to(torch.get_autocast_dtype("cpu")) for part in parts]
    return _flash(*parts)[0].view(*query.shape[:-1], value.shape[-1])


def _flash_operations(query: Tensor, key: Tensor, value: Tensor, *rest: Any, out_val: Any = None, **more: Any) -> int:
    return 2 * query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])


def _flash_backward_operations(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **more: Any) -> int:
    return 5 * _flash_operations(query, key, value) // 2


_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
COUNTS = {
    **flop_registry,
    _flash: _flash_operations,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _flash_backward_operations,
}
"""operator -> its operations, of arguments and results"""


def _as_large(product: residual.SparseProduct, x: Tensor) -> Tensor:
    """A tensor of the size of a sparse product, of which there are no fake ones."""
    return x.float().mean(dim=-2, keepdim=True).expand(*x.shape[:-2], product.shapes[0][0], -1).clone()


def _without_numbers(model: Forecaster, precision: str) -> Forecaster:
    """The model with fake tensors for its parameters and buffers; must be called within a FakeTensorMode.

    Terms beside the score are left out: what they compute depends on numbers.
    """
    memo: dict[int, Any] = {id(tensor): _fake(tensor) for tensor in (*model.parameters(), *model.buffers())}
    fake = copy.deepcopy(model, memo)
    fake.precision = precision
    fake.terms = Terms({}, fake.fields, fake.network)
    vars(fake)["_teachers"] = dict
    vars(fake)["_check"] = lambda batch: None  # there are no numbers to check
    vars(fake)["_noise"] = lambda keys, members, step: torch.empty(len(keys), members, *fake.noise_shape)
    return fake.train(model.training)


def _fake(tensor: Tensor) -> Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _batch(model: Forecaster, samples: int, rollout: int) -> Batch:
    fields = model.fields
    shape = (samples, fields.input_steps + rollout, fields.grid_size)
    dates = np.datetime64("2000-01-01T00", "s") + np.arange(shape[1]) * np.timedelta64(fields.step, "s")
    return Batch(
        states=torch.empty(*shape, len(fields.variables)),
        forcings=torch.empty(*shape, len(fields.forcings) + len(fields.static)),
        dates=np.tile(dates, (samples, 1)),
        starts_from_analysis=torch.zeros(samples, dtype=torch.bool),
        keys=tuple(range(samples)),
        input_steps=fields.input_steps,
    )
