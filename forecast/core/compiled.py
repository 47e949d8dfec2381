"""Loops that numba compiles on first use and keeps on disk, so that the next process need not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def compiled(function: Callable[..., Any] | None = None, *, kept: bool = True, **options: Any) -> Callable[..., Any]:
    """Decorator: machine code without the interpreter's lock, division as NumPy does it.

    Args:
        kept: keep the code beside the source or in the user's cache, where one can be written; numba renews it when the
            file changes. Functions that only others of their file call need not be kept.
        options: further ones of `numba.njit`.
    """
    if function is None:
        return lambda f: compiled(f, kept=kept, **options)
    options = {"nogil": True, "error_model": "numpy", **options}
    if not kept:
        return numba.njit(**options)(function)
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can be written
        return numba.njit(**options)(function)
