"""How much of each cell of one grid lies in each cell of another."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from forecast.core import polygons
from forecast.core.cells import TURN, Boxes
from forecast.core.errors import ForecastError
from forecast.core.grids import Grid

SLIVER = 1e-14
"""radians: overlaps so thin come from rounding"""


def areas(source: Grid, target: Grid) -> sparse.csr_array:
    """(T, S) steradian that each target cell shares with each source cell.

    Between grids of boxes exact. Else of polygons (polygons.py), whose edges differ a little from those of boxes and
    HEALPix pixels: so they are corrected as little as possible, relative to what they are, until rows sum to the
    target's areas and columns to the source's. Integrals are conserved exactly.

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
    return _balanced(polygons.overlaps(source, target), target.areas, source.areas)


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


def _balanced(shared: sparse.csr_array, rows: np.ndarray, columns: np.ndarray) -> sparse.csr_array:
    """`shared` times 1 + x(row) + y(column), the smallest such change that makes the sums those given.

    Without x it is the Laplace equation of a graph: source cells are linked where a target overlaps both.
    """
    from scipy.sparse.linalg import cg

    row_sums, column_sums = shared.sum(axis=1), shared.sum(axis=0)
    per_row = shared.multiply(1 / row_sums[:, None]).tocsr()
    missing = columns - column_sums - per_row.T @ (rows - row_sums)
    laplacian = sparse.diags_array(column_sums) - shared.T @ per_row
    scale = 1 / np.sqrt(laplacian.diagonal())
    scaled = (laplacian.multiply(scale).T.multiply(scale)).tocsr()
    idle = 1 / scale / np.linalg.norm(1 / scale)  # the same y everywhere changes nothing, so it is left out
    wanted = scale * missing
    y = scale * cg(scaled, wanted - idle * (idle @ wanted), rtol=1e-11, maxiter=10_000)[0]
    x = (rows - row_sums) / row_sums - per_row @ y
    entries = shared.tocoo()
    values = entries.data * (1 + x[entries.row] + y[entries.col])
    return sparse.csr_array((values, (entries.row, entries.col)), shape=shared.shape)
