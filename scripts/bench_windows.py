"""A block of windowed attention beside a plain one and Swin's of timm and torchvision, forward and backward.

    python scripts/bench_windows.py             # widths 96 to 1536, five sizes of map, more rounds
    python scripts/bench_windows.py --quick     # widths 96 and 192, four sizes of map: 3 minutes

The block is the shifted one of FuXi-ENS (18 x 18 tokens of 90 x 180): norms and gates that a condition modulates,
rotary positions, GEGLU. `dense` is the same in plain torch: roll, windows, a stored mask of -100 and stored scores.
timm's and torchvision's blocks have the same width, heads, windows and number of weights (MLP ratio 4). One thread,
float32, CPU time, best of some rounds in which all take turns. Memory is the peak of a process of its own above what it
held before, gradients included. The peers are installed from the package index into the folder --peer, once. The
targets are judged at width 96, the first of Swin-T; the wider a block, the more of its time goes into matrix products,
which all sides share, so that wider ones are shown without a target. Exits 1 where a target is missed. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEER = ("timm==1.0.31", "torchvision==0.28.0", "huggingface_hub==0.36.0", "packaging", "pyyaml", "tqdm", "filelock",
        "pillow", "fsspec")  # fmt: skip
OURS, DENSE, TIMM, TORCHVISION = "ours", "dense", "timm", "torchvision"
SIDES = (OURS, DENSE, TIMM, TORCHVISION)
WINDOW, SHIFT, MAP = 18, 9, (90, 180)
HEAD = {96: 3, 192: 6, 384: 12, 1536: 24}
"""width -> heads, as in Swin-T, and in FuXi-ENS"""
JUDGED = (96,)
QUICK = (96, 192)
MAPS = ((36, 36), (54, 54), (90, 90), (90, 180), (180, 180))
Row = dict[str, dict[str, float]]


# In the process of a case.


def blocks(width: int, shape: tuple[int, int], names: Sequence[str]) -> dict[str, Callable[[Any], Any]]:
    """Functions of tokens (1, rows, columns, width), the weights of ours and dense being the same."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    condition, out = torch.randn(1, width), {}
    if OURS in names or DENSE in names:
        block, home = _ours(width, shape)
        there = torch.tensor(home.order)  # within the network tokens stay in this order
        plain = Dense(block, shape)
        out[OURS] = lambda x: block(x, condition)
        out[DENSE] = lambda x: plain(x, condition)
        x = torch.randn(1, shape[0] * shape[1], width)
        with torch.no_grad():
            difference = (out[OURS](x[:, there]) - out[DENSE](x.view(1, *shape, width)).flatten(1, 2)[:, there]).abs()
        assert difference.max() < 1e-3, f"ours and dense differ by {difference.max()}"
    if TIMM in names:
        out[TIMM] = _timm()(width, shape, HEAD[width], window_size=WINDOW, shift_size=SHIFT, mlp_ratio=4.0)
    if TORCHVISION in names:
        out[TORCHVISION] = _torchvision()(width, HEAD[width], [WINDOW, WINDOW], [SHIFT, SHIFT], mlp_ratio=4.0)
    return {name: out[name] for name in names}


def _ours(width: int, shape: tuple[int, int]) -> Any:
    import torch

    from forecast.core.model_sections import FuxiEnsSection
    from forecast.models.fuxi_blocks import Block
    from forecast.models.windows import partition

    mlp = 8 * width // 3 // 8 * 8
    section = FuxiEnsSection(kind="fuxi_ens", width=width, heads=HEAD[width], mlp_width=mlp, window=(WINDOW, WINDOW))
    home = partition(shape, section.window, (0, 0), wraps=True)
    block = Block(section, home, partition(shape, section.window, (SHIFT, SHIFT), wraps=True))
    torch.nn.init.normal_(block.modulation.weight, std=0.05)
    return block, home


class Dense:
    """The same block as tutorials have it: what a shifted window may not see is masked, scores are stored."""

    def __init__(self, block: Any, shape: tuple[int, int]) -> None:
        import torch

        self.block, self.shape = block, shape
        regions = torch.zeros(shape)
        regions[-WINDOW:-SHIFT], regions[-SHIFT:] = 1, 2
        regions = self._windows(regions[None, :, :, None])[..., 0]
        self.mask = torch.where(regions[:, None, :, None] == regions[:, None, None, :], 0.0, -100.0)
        pairs = block.attention.cosine.shape[1]
        angles = torch.arange(WINDOW * WINDOW)[:, None] * 1e4 ** (-torch.arange(pairs) / pairs)
        self.cosine, self.sine = angles.cos()[:, None], angles.sin()[:, None]

    def __call__(self, x: Any, condition: Any) -> Any:
        """(1, rows, columns, width) -> the same."""
        import torch

        block, (rows, columns) = self.block, self.shape
        s1, b1, g1, s2, b2, g2 = block.modulation(condition)[:, None, None].chunk(6, dim=-1)
        y = self._windows(torch.roll(self._norm(x) * (1 + s1) + b1, (-SHIFT, -SHIFT), (1, 2)))
        q, k, v = block.attention.qkv(y).unflatten(-1, (3, block.attention.heads, -1)).unbind(2)
        q, k = self._turned(q).transpose(1, 2), self._turned(k).transpose(1, 2)
        scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5 + self.mask
        y = block.attention.out((scores.softmax(-1) @ v.transpose(1, 2)).transpose(1, 2).flatten(2))
        y = y.view(1, rows // WINDOW, columns // WINDOW, WINDOW, WINDOW, -1).transpose(2, 3).reshape(x.shape)
        x = x + g1 * torch.roll(y, (SHIFT, SHIFT), (1, 2))
        a, b = block.mlp_in(self._norm(x) * (1 + s2) + b2).chunk(2, dim=-1)
        return x + g2 * block.mlp_out(a * torch.nn.functional.gelu(b))

    def _windows(self, x: Any) -> Any:
        rows, columns = self.shape
        x = x.view(1, rows // WINDOW, WINDOW, columns // WINDOW, WINDOW, -1).transpose(2, 3)
        return x.reshape(-1, WINDOW * WINDOW, x.shape[-1])

    def _norm(self, x: Any) -> Any:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-6).sqrt()

    def _turned(self, x: Any) -> Any:
        import torch

        even, odd = x[..., 0::2], x[..., 1::2]
        c, s = self.cosine, self.sine
        return torch.stack([even * c - odd * s, even * s + odd * c], dim=-1).flatten(-2)


def _timm() -> Any:
    _torchvision()
    from timm.models.swin_transformer import SwinTransformerBlock

    return SwinTransformerBlock


def _torchvision() -> Any:
    """Swin's block; the package's compiled operators, which it does not need, may be for another torch."""
    import torch

    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _torchvision.kept = library  # type: ignore[attr-defined]
    from torchvision.models.swin_transformer import SwinTransformerBlock

    return SwinTransformerBlock


def run_of(
    name: str, block: Callable[[Any], Any], width: int, shape: tuple[int, int], dtype: str = "float32"
) -> Callable[[], None]:
    """A function that goes through a block forward and backward."""
    import torch

    size = (1, shape[0] * shape[1], width) if name == OURS else (1, *shape, width)
    x = torch.randn(size).requires_grad_()
    grad, half = torch.randn(size), dtype == "bfloat16"

    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            out = block(x)
        out.backward(grad.to(out.dtype))

    return run


def measure_time(width: int, shape: tuple[int, int], names: Sequence[str], rounds: int) -> Row:
    """Best CPU seconds of each."""
    runs = {name: run_of(name, block, width, shape) for name, block in blocks(width, shape, names).items()}
    best = dict.fromkeys(names, math.inf)
    for turn in range(rounds + 1):  # the first compiles and warms up
        for name, run in runs.items():
            began = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - began) if turn or rounds == 1 else math.inf
    return {name: {"seconds": seconds} for name, seconds in best.items()}


def measure_memory(width: int, shape: tuple[int, int], name: str) -> Row:
    """Peak bytes above what was held before."""
    small = (WINDOW * 2, WINDOW * 2)
    run_of(name, blocks(width, small, [name])[name], width, small)()
    run = run_of(name, blocks(width, shape, [name])[name], width, shape)
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    run()
    return {name: {"memory": float(_status("VmHWM") - before)}}


def _status(field: str) -> int:
    """Bytes from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


# In the process that the user starts.


def install(folder: Path) -> None:
    """The peers in `folder`, unless they are there."""
    stamp = folder / "installed.txt"
    if stamp.exists() and stamp.read_text().split() == list(PEER):
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    result = subprocess.run([*command, "--target", str(folder), *PEER], capture_output=True, text=True, check=False)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["pip failed"])[-1]
        sys.exit(f"bench_windows: cannot install {PEER[0]} into {folder}: {last}")
    stamp.write_text("\n".join(PEER))


def child(peer: Path, *given: Any) -> Row:
    """The row that a process of its own measures."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")]), str(peer)])
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    if given[0] == "memory":
        environment["MALLOC_MMAP_THRESHOLD_"] = "65536"  # what is freed goes back: the peak shows all that is new
    command = [sys.executable, __file__, "--child", json.dumps(given)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"bench_windows: {given}: {(result.stderr.strip().splitlines() or ['failed'])[-1]}")
    row: Row = json.loads(result.stdout.splitlines()[-1])
    return row


def run_child(given: str) -> None:
    """What `child` asked for; prints the row."""
    what, width, shape, *rest = json.loads(given)
    measure = measure_time if what == "time" else measure_memory
    print(json.dumps(measure(width, tuple(shape), *rest)))


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Slope of log value over log size, least squares."""
    x, y = [math.log(s) for s in sizes], [math.log(v) for v in values]
    mx, my = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / sum((a - mx) ** 2 for a in x)


def compare(options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Prints a line for each width; speed and memory, the best peer's over ours, where they are judged."""
    print(f"{'':>11} {'CPU milliseconds':^43} {'peak MB':^43} {'best peer over ours':^19}")
    print(f"{'width':>5} {'heads':>5} {' '.join(f'{name:>10}' for name in (*SIDES, *SIDES))} {'time':>9} {'memory':>9}")
    speed, memory = [], []
    for width in options.widths:
        rounds = 1 if width > 384 else options.rounds
        row = child(options.peer, "time", width, MAP, SIDES, rounds)
        for name in SIDES:
            row[name] |= child(options.peer, "memory", width, MAP, name)[name]
        faster, leaner = (min(row[n][key] for n in SIDES[1:]) / row[OURS][key] for key in ("seconds", "memory"))
        cells = [f"{1000 * row[n]['seconds']:>10,.0f}" for n in SIDES]
        cells += [f"{row[n]['memory'] / 1e6:>10,.0f}" for n in SIDES]
        print(f"{width:>5} {HEAD[width]:>5} {' '.join(cells)} {faster:>9.2f} {leaner:>9.2f}", flush=True)
        if width in JUDGED:
            speed.append(faster)
            memory.append(leaner)
    return speed, memory


def grow(options: argparse.Namespace) -> tuple[float, float]:
    """Prints a line for each size of map; exponents of time and memory."""
    print(f"\n{'tokens':>7} {'CPU milliseconds':>16} {'peak MB':>9}    (ours, width 96)")
    maps = MAPS[:-1] if options.quick else MAPS
    tokens, seconds, memory = [], [], []
    for shape in maps:
        row = child(options.peer, "time", 96, shape, [OURS], options.rounds)[OURS]
        row |= child(options.peer, "memory", 96, shape, OURS)[OURS]
        tokens.append(shape[0] * shape[1])
        seconds.append(row["seconds"])
        memory.append(row["memory"])
        print(f"{tokens[-1]:>7,} {1000 * seconds[-1]:>16,.0f} {memory[-1] / 1e6:>9,.1f}", flush=True)
    return exponent(tokens, seconds), exponent(tokens, memory)


def main() -> int:
    """Measures, prints the tables and the targets; 1 where one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--peer", type=Path, default=ROOT / "runs/bench-windows", help="folder of the peers' packages")
    parser.add_argument("--widths", type=int, nargs="+", choices=HEAD)
    parser.add_argument("--rounds", type=int, help="of which the best counts")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options.child)
        return 0
    options.widths = options.widths or (QUICK if options.quick else list(HEAD))
    options.rounds = options.rounds or (3 if options.quick else 7)
    install(options.peer)
    speed, memory = compare(options)
    of_time, of_memory = grow(options)
    results = [("speed over the fastest peer", min(speed, default=math.nan), 1.5, True),
               ("memory of the leanest peer over ours", min(memory, default=math.nan), 1.0, True),
               ("exponent of time over tokens", of_time, 1.1, False),
               ("exponent of memory over tokens", of_memory, 1.1, False)]  # fmt: skip
    for name, reached, asked, least in results:
        print(f"target {name}: reached {reached:.2f}, asked {'at least' if least else 'at most'} {asked:g}")
    return int(not all(reached >= asked if least else reached <= asked for _, reached, asked, least in results))


if __name__ == "__main__":
    sys.exit(main())
