"""Work shared out among threads, for loops that let go of the interpreter's lock; threads that take turns with it;
properties that do not make threads wait for each other."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")

_pool = ThreadPoolExecutor(thread_name_prefix="forecast")


def share(work: Callable[[int, int], Result], size: int, threads: int) -> list[Result]:
    """work(begin, end) on 0..size cut into as many even pieces as there are threads; the caller takes the first."""
    pieces = max(1, min(threads, size))
    cuts = [size * i // pieces for i in range(pieces + 1)]
    spans = list(zip(cuts[:-1], cuts[1:], strict=True))
    others = [_pool.submit(work, *span) for span in spans[1:]]
    return [work(*spans[0]), *(other.result() for other in others)]


class lazy(Generic[Result]):  # noqa: N801  (used as a decorator)
    """A property that is computed once, on first use.

    functools.cached_property does the same, but before Python 3.12 holds a lock of the class meanwhile, so that
    threads compute it one after the other though their instances differ.
    """

    def __init__(self, of: Callable[[Any], Result]) -> None:
        self.of, self.__doc__ = of, of.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Result:
        value = instance.__dict__[self.name] = self.of(instance)
        return value


@contextmanager
def prompt(seconds: float = 2e-4) -> Iterator[None]:
    """Whoever holds the interpreter's lock gives it up after `seconds`, in place of Python's 5 ms.

    A network's thread asks for the lock after every operator: beside a thread of plain Python it would wait those 5 ms
    each time.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, seconds))
    try:
        yield
    finally:
        sys.setswitchinterval(before)
