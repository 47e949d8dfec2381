"""Work shared out among threads, for loops that let go of the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

_pool = ThreadPoolExecutor(thread_name_prefix="forecast")


def share(work: Callable[[int, int], Result], size: int, threads: int) -> list[Result]:
    """work(begin, end) on 0..size cut into as many even pieces as there are threads; the caller takes the first."""
    pieces = max(1, min(threads, size))
    cuts = [size * i // pieces for i in range(pieces + 1)]
    spans = list(zip(cuts[:-1], cuts[1:], strict=True))
    others = [_pool.submit(work, *span) for span in spans[1:]]
    return [work(*spans[0]), *(other.result() for other in others)]
