"""Activation checkpointing that keeps what costly operators gave: computed once, although the rest is computed again.

torch's own way (`create_selective_checkpoint_contexts`) leads every operator of a layer through Python, twice; here
the costly ones alone look whether their result is known. Under torch.compile, which must see what is kept, it is
torch's.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import create_selective_checkpoint_contexts

KEPT = ("slide", "mlp", "attend", "attend_edges")
"""operators whose results are small beside the work that they took"""

Kernel = TypeVar("Kernel", bound=Callable[..., Any])
_now = threading.local()


class Memo:
    """Results of one run of a part, in their order."""

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.replays = False

    @contextmanager
    def run(self, replays: bool) -> Iterator[None]:
        """The part's first run within, or its repetition."""
        before, _now.memo, self.replays = getattr(_now, "memo", None), self, replays
        try:
            yield
        finally:
            _now.memo = before


def kept(kernel: Kernel) -> Kernel:
    """Decorator of an operator's kernel."""

    @functools.wraps(kernel)
    def known(*given: Any) -> Any:
        memo: Memo | None = getattr(_now, "memo", None)
        if memo is None:
            return kernel(*given)
        if memo.replays and memo.results:
            return memo.results.pop(0)
        out = kernel(*given)
        if not memo.replays:
            memo.results.append(_apart(out))
        return out

    return known  # type: ignore[return-value]


def _apart(out: Any) -> Any:
    """The same numbers without what autograd will hang on them."""
    return out.detach() if isinstance(out, Tensor) else tuple(part.detach() for part in out)


def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For `context_fn` of torch.utils.checkpoint, where nothing is compiled."""
    memo = Memo()
    return memo.run(replays=False), memo.run(replays=True)


def compiled_contexts() -> Any:
    """The same for a compiler."""
    own = torch.ops.forecast
    return create_selective_checkpoint_contexts([getattr(own, name).default for name in KEPT])
