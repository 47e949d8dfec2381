"""Time and memory of losses over pairs against size: forward and backward, memory must not grow faster than the data.

python scripts/bench_loss_growth.py [--quick]      # five minutes; --quick: one minute, half the sizes
"""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor

from forecast import losses

Inputs = Callable[[int], tuple[Tensor, ...]]

FLOOR = 64.0
"""MB that a loss may take at any size: a chunk of pairs, and what the allocator keeps"""
ASKED = 5.0
"""at four times the size at most so many times the memory; pairs held at once would take sixteen times"""


def members(count: int) -> tuple[Tensor, ...]:
    """An ensemble of 4096 points and 4 variables, and its truth."""
    return torch.randn(1, count, 4096, 4, requires_grad=True), torch.randn(1, 4096, 4)


def event(count: int) -> tuple[Tensor, ...]:
    """Logits and labels of points."""
    return torch.randn(1, count, requires_grad=True), (torch.rand(1, count) > 0.7).float()


def field(count: int) -> tuple[Tensor, ...]:
    """A forecast and a truth."""
    return torch.randn(1, count, requires_grad=True), torch.randn(1, count)


def two_sets(count: int) -> tuple[Tensor, ...]:
    """Samples of 32 features, twice."""
    return torch.randn(count, 32, requires_grad=True), torch.randn(count, 32)


def one_set(count: int) -> tuple[Tensor, ...]:
    """Samples of 32 features."""
    return (torch.randn(count, 32, requires_grad=True),)


CASES: dict[str, tuple[Inputs, int]] = {
    "almost_fair_crps": (members, 16),
    "energy_score": (members, 16),
    "kernel_score": (members, 16),
    "energy_distance": (lambda m: (members(m)[0], torch.randn(1, m, 4096, 4)), 16),
    "mann_whitney": (event, 8_000),
    "pair_ranking": (field, 8_000),
    "mmd": (two_sets, 4_000),
    "cauchy_schwarz": (two_sets, 4_000),
    "quadratic_information": (two_sets, 4_000),
    "info_nce": (two_sets, 4_000),
    "uniformity": (one_set, 4_000),
    "joint_entropy": (two_sets, 4_000),
}


def peak() -> float:
    """MB of memory held at most since the last `forget`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def forget() -> float:
    """Begin a new peak at what is held now, which is returned, MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def once(name: str, size: int, result: Connection) -> None:
    """Send seconds and MB beyond the inputs of one forward and backward pass, the second of this process."""
    make, _ = CASES[name]
    loss = losses.build({"name": name})
    loss(*make(4)).backward()  # what is compiled or imported on first use
    inputs = make(size)
    held, begun = forget(), time.perf_counter()
    loss(*inputs).backward()
    result.send((time.perf_counter() - begun, peak() - held))


def measure(name: str, size: int) -> tuple[float, float]:
    """`once` in a process of its own, so that no memory of another run is used again."""
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=once, args=(name, size, theirs))
    child.start()
    found: tuple[float, float] = ours.recv()
    child.join()
    return found


def main(quick: bool) -> int:
    """A row for each loss and size, then a line for each target; 1 where one falls short."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"{'loss':28} {'size':>8} {'seconds':>9} {'extra MB':>9}")
    failed, targets = 0, []
    for name, (_, first) in CASES.items():
        first //= 2 if quick else 1
        extra = []
        for size in (first, 2 * first, 4 * first):
            seconds, memory = measure(name, size)
            extra.append(memory)
            print(f"{name:28} {size:8,} {seconds:9.3f} {memory:9.1f}")
        ratio = max(extra[2], FLOOR) / max(extra[0], FLOOR)
        failed += ratio > ASKED
        targets.append(f"target {name} memory at 4 times the size: reached {ratio:.1f}x, asked at most {ASKED:.1f}x")
    print("\n".join(targets))
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main("--quick" in sys.argv[1:]))
