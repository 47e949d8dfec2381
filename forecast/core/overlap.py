"""How much of each cell of one grid lies in each cell of another."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from forecast.core import healpix
from forecast.core.cells import TURN, Boxes
from forecast.core.errors import ForecastError
from forecast.core.grids import Grid

SLIVER = 1e-14
"""radians: overlaps so thin come from rounding"""
SAMPLES = 16
"""sampled positions in a cell of the finer grid, where cells are not both boxes"""
CHUNK = 1_000_000


def areas(source: Grid, target: Grid) -> sparse.csr_array:
    """(T, S) steradian that each target cell shares with each source cell.

    Between grids of boxes exact. Else measured at sampled positions of equal weight, then corrected as little as
    possible (least squares relative to what was measured) so that rows sum to the target's areas and columns to the
    source's: integrals are conserved exactly, single overlaps are known to about a tenth.

    Raises:
        ForecastError: neither both of boxes nor both global.
    """
    if source.boxes is not None and target.boxes is not None:
        return _boxes(source.boxes, target.boxes)
    if not (source.is_global and target.is_global):
        raise ForecastError(
            f"conservative weights from {source.name} to {target.name} need two global grids, or two of rows and "
            "columns: take `linear` or `gaussian`"
        )
    return _balanced(_linked(_sampled(source, target), source, target), target.areas, source.areas)


def _boxes(source: Boxes, target: Boxes) -> sparse.csr_array:
    """Bands and longitudes overlap independently; pairs of rows with the same longitudes are worked out once."""
    upper, lower, heights = _intervals(_rising(target.bands), _rising(source.bands))
    known: dict[tuple[int, int], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}
    parts = []
    for t, s, height in zip(upper.tolist(), lower.tolist(), heights.tolist(), strict=True):
        t = len(target.edges) - 1 - t if target.bands[0] > target.bands[-1] else t
        s = len(source.edges) - 1 - s if source.bands[0] > source.bands[-1] else s
        key = (id(target.edges[t]), id(source.edges[s]))
        if key not in known:
            known[key] = _arcs(target.edges[t], source.edges[s])
        i, j, widths = known[key]
        parts.append((target.first[t] + i, source.first[s] + j, height * widths))
    rows, columns, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    return sparse.csr_array((values, (rows, columns)), shape=(int(target.first[-1]), int(source.first[-1])))


def _rising(edges: np.ndarray) -> np.ndarray:
    return edges[::-1] if edges[0] > edges[-1] else edges


def _intervals(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the intervals between rising edges a and b those that overlap: i, j, and the length in common."""
    cuts = np.unique(np.concatenate([a, b]))
    middle, length = (cuts[1:] + cuts[:-1]) / 2, np.diff(cuts)
    i, j = np.searchsorted(a, middle) - 1, np.searchsorted(b, middle) - 1
    both = (i >= 0) & (i < a.size - 1) & (j >= 0) & (j < b.size - 1) & (length > SLIVER)
    return i[both], j[both], length[both]


def _arcs(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same on a circle."""
    begin = a[0]
    cuts = np.unique(np.concatenate([a, begin + (b - begin) % TURN, [begin + TURN]]))
    middle, length = (cuts[1:] + cuts[:-1]) / 2, np.diff(cuts)
    i, j = np.searchsorted(a, middle) - 1, np.searchsorted(b, b[0] + (middle - b[0]) % TURN) - 1
    both = (i < a.size - 1) & (j < b.size - 1) & (length > SLIVER)
    return i[both], j[both], length[both]


def _sampled(source: Grid, target: Grid) -> sparse.csr_array:
    total = sparse.csr_array((target.size, source.size))
    for sines, longitudes, weights in _samples(source, target):
        t, s = target.holding(sines, longitudes), source.holding(sines, longitudes)
        total = total + sparse.csr_array((weights, (t, s)), shape=total.shape)
    return total


def _linked(measured: sparse.csr_array, source: Grid, target: Grid) -> sparse.csr_array:
    """With a hundredth of their area lent to the four nearest, cells that seem to coincide can be balanced, too."""
    from scipy.sparse.csgraph import connected_components

    both = sparse.block_array([[None, measured], [measured.T, None]], format="csr")
    label = connected_components(both, directed=False)[1][: target.size]
    alone = np.flatnonzero(label != np.bincount(label).argmax())
    if not alone.size:
        return measured
    near = cKDTree(source.xyz).query(target.xyz[alone], k=4)[1]
    lent = np.repeat(0.0025 * target.areas[alone], 4)
    return measured + sparse.csr_array((lent, (np.repeat(alone, 4), near.ravel())), shape=measured.shape)


def _samples(source: Grid, target: Grid) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Chunks of positions (sine of latitude, radians) and their areas: parts of boxes where there are boxes."""
    wanted = SAMPLES * max(source.size, target.size)
    boxes = target.boxes or source.boxes
    if boxes is None:
        yield from _of_healpix(int(np.ceil(np.sqrt(wanted / 12))))
        return
    parts = max(int(np.ceil(np.sqrt(wanted / boxes.areas.size))), 4)
    within = (np.arange(parts) + 0.5) / parts
    held: list[tuple[np.ndarray, ...]] = []
    for low, high, edges in zip(boxes.bands[:-1], boxes.bands[1:], boxes.edges, strict=True):
        longitudes = (edges[:-1, None] + np.diff(edges)[:, None] * within).ravel()
        sines = np.repeat(low + (high - low) * within, longitudes.size)
        weights = np.tile(np.repeat(np.diff(edges) * abs(high - low) / parts**2, parts), parts)
        held.append((sines, np.tile(longitudes, parts), weights))
        if sum(piece[0].size for piece in held) > CHUNK:
            yield _joined(held)
            held = []
    if held:
        yield _joined(held)


def _of_healpix(number: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    sines, longitudes = healpix.positions(number, nested=False)
    for begin in range(0, sines.size, CHUNK):
        part = slice(begin, begin + CHUNK)
        yield sines[part], longitudes[part], np.full(sines[part].size, 4 * np.pi / sines.size)


def _joined(held: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sines, longitudes, weights = (np.concatenate(part) for part in zip(*held, strict=True))
    return sines, longitudes, weights


def _balanced(measured: sparse.csr_array, rows: np.ndarray, columns: np.ndarray) -> sparse.csr_array:
    """`measured` times 1 + x(row) + y(column), the smallest such change that makes the sums those given.

    Raises:
        ForecastError: a cell that no sample lies in.
    """
    from scipy.sparse.linalg import LinearOperator, cg

    row_sums, column_sums = measured.sum(axis=1), measured.sum(axis=0)
    if not (row_sums.min() > 0 and column_sums.min() > 0):
        raise ForecastError("the grids' cells differ too much in size for conservative weights: take `linear`")
    split, transposed = rows.size, measured.T.tocsr()
    diagonal = np.concatenate([row_sums, column_sums])
    scale = 1 / np.sqrt(diagonal)
    idle = np.concatenate([1 / scale[:split], -1 / scale[split:]])  # x + c, y - c is the same change: pinned to 0
    idle /= np.linalg.norm(idle)

    def product(z: np.ndarray) -> np.ndarray:
        y = scale * z
        sums = diagonal * y + np.concatenate([measured @ y[split:], transposed @ y[:split]])
        return scale * sums + idle * (idle @ z)

    operator = LinearOperator((diagonal.size, diagonal.size), matvec=product, dtype=float)
    wanted = scale * np.concatenate([rows - row_sums, columns - column_sums])
    wanted -= idle * (idle @ wanted)
    change = scale * cg(operator, wanted, rtol=1e-13, maxiter=2000)[0]
    entries = measured.tocoo()
    factor = 1 + change[:split][entries.row] + change[split:][entries.col]
    return sparse.csr_array((entries.data * factor, (entries.row, entries.col)), shape=measured.shape)
