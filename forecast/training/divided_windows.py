"""A variational network on the grid axis: each process owns rows of the grid, and windows of tokens.

Rows of tokens, windows and shifted windows are divided evenly, each by itself; tokens move from one layout to the next.
"""

from __future__ import annotations

from typing import cast

import numpy as np

from forecast.core.errors import ForecastError
from forecast.models.fuxi_blocks import Backbone, Geometry, Patches, PatchHead
from forecast.models.fuxi_forecaster import FuxiForecaster
from forecast.models.harmonic import Waves
from forecast.models.variational import DISTRIBUTION_MASKS, VariationalNetwork
from forecast.models.windows import WindowAttention, Windows
from forecast.training.divided_graph import divide_waves
from forecast.training.exchange import Permutation, ranges
from forecast.training.mesh import Axis
from forecast.training.sharing import Part, SharedFuxi, become


def points(geometry: Geometry, axis: Axis) -> list[slice]:
    """The points of each process: whole rows of patches, the last with what is left below them."""
    (rows, columns), patch = geometry.grid, geometry.patch[0]
    ends = [min(part.stop * patch, rows) for part in axis.parts(geometry.tokens[0])]
    ends[-1] = rows
    return [slice(begin * columns, end * columns) for begin, end in zip([0, *ends[:-1]], ends, strict=True)]


def tokens(geometry: Geometry, axis: Axis) -> list[slice]:
    """The tokens of each process: whole rows."""
    across = geometry.tokens[1]
    return [slice(part.start * across, part.stop * across) for part in axis.parts(geometry.tokens[0])]


def divide(model: FuxiForecaster, part: Part) -> None:
    """Leave of the network what belongs to this process's points and windows.

    Raises:
        ForecastError: a latent that ties points of the whole grid together, or fewer rows or windows than processes.
    """
    axis, network = part.mesh.grid, model.network
    whole = network.geometry
    home, shifted = _Shares(whole.home, axis), _Shares(whole.shifted, axis)
    _check(model, axis, min(home.least, shifted.least, whole.tokens[0] // axis.size))
    columns = whole.grid[1]
    rows = (part.mine.stop - part.mine.start) // columns
    here = axis.part(whole.tokens[0])
    local = Geometry((rows, columns), whole.patch, whole.drop, (here.stop - here.start, whole.tokens[1]),
                     home.windows, shifted.windows)  # fmt: skip
    raster = ranges(part.nodes)
    for module in list(network.modules()):
        if isinstance(module, Backbone):
            module.home = Permutation(axis, raster, home.tokens)  # type: ignore[assignment]
        elif isinstance(module, Patches):
            module.geometry = local
        elif isinstance(module, PatchHead):
            module.geometry, module.shape = local, local.grid
        elif isinstance(module, WindowAttention):
            _windows(axis, module, home, home if module.reordering is None else shifted)
        elif isinstance(module, Waves):
            divide_waves(axis, module, home.tokens)
    become(network, _Divided)
    cast(_Divided, network).here = len(home.tokens[axis.rank])
    part.noise = _noise(network, part, home)
    network.geometry, network.latent_shape = local, local.grid
    share = network.areas[part.mine]
    cast(SharedFuxi, model).area = float(share.double().sum() / network.areas.double().sum())
    network.areas = share.clone()


def _check(model: FuxiForecaster, axis: Axis, least: int) -> None:
    latent, divergence = model.section.latent, model.section.divergence
    tied = {"latent.rank": latent.rank, "latent.coarsening": latent.coarsening - 1,
            "divergence.free_bits": divergence.free_bits}  # fmt: skip
    for name in (name for name, value in tied.items() if value):
        raise ForecastError(f"training.mesh: model.{name} ties points of the whole grid together: set grid to 1")
    if not least:
        raise ForecastError(
            f"training.mesh: grid {axis.size} leaves processes without rows of patches or windows: lower it"
        )


class _Shares:
    """A partition into windows, divided.

    Attributes:
        tokens: raster indices of each process's tokens, window after window. windows: those of this process.
        places: of this process's tokens within the whole partition's order.
    """

    def __init__(self, whole: Windows, axis: Axis) -> None:
        ends = np.cumsum([count * length for count, length in whole.groups])
        starts = [
            np.arange(count) * length + end - count * length
            for (count, length), end in zip(whole.groups, ends, strict=True)
        ]
        owner = self._owners(whole, starts, axis.size)
        places: list[np.ndarray] = []
        for rank in range(axis.size):
            groups = [
                (begins[own == rank][:, None] + np.arange(length)).ravel()
                for (_, length), begins, own in zip(whole.groups, starts, owner, strict=True)
            ]
            places.append(np.concatenate(groups))
        self.tokens, self.places = [whole.order[place] for place in places], places[axis.rank]
        lengths = [length for _, length in whole.groups]
        counts = [(int((own == axis.rank).sum()), length) for length, own in zip(lengths, owner, strict=True)]
        here = tuple((count, length) for count, length in counts if count)
        self.windows = Windows(self.tokens[axis.rank], here, whole.positions[self.places])
        self.least = min(len(place) for place in places)

    @staticmethod
    def _owners(whole: Windows, starts: list[np.ndarray], ranks: int) -> list[np.ndarray]:
        """Who has each window of each group: from north to south, so that all have about as many tokens."""
        first = np.concatenate([whole.order[begins] for begins in starts])
        size = np.concatenate([np.full(count, length) for count, length in whole.groups])
        order = np.argsort(first, kind="stable")
        middle = np.empty(len(first))
        middle[order] = np.cumsum(size[order]) - size[order] / 2
        owner = np.minimum((middle * ranks / size.sum()).astype(np.int64), ranks - 1)
        return np.split(owner, np.cumsum([len(begins) for begins in starts])[:-1])


def _windows(axis: Axis, attention: WindowAttention, home: _Shares, own: _Shares) -> None:
    attention.groups = own.windows.groups
    for name in ("cosine", "sine"):
        setattr(attention, name, getattr(attention, name)[own.places].clone())
    if own is not home:
        attention.reordering = Permutation(axis, home.tokens, own.tokens)  # type: ignore[assignment]


def _noise(network: VariationalNetwork, part: Part, home: _Shares) -> tuple[list[slice], tuple[int, ...]]:
    """Of a member's normal numbers those of the latent's points here, and those of dropout of the tokens here."""
    channels, width = network.channels, network.section.width
    parts = [slice(part.mine.start * channels, part.mine.stop * channels)]
    begin, tokens = network.noise_shape[0] - VariationalNetwork._mask_size(network), len(network.geometry.home.order)
    if network.section.dropout:
        runs = np.split(home.places, np.flatnonzero(np.diff(home.places) != 1) + 1)
        parts += [
            slice(begin + (mask * tokens + int(run[0])) * width, begin + (mask * tokens + int(run[-1]) + 1) * width)
            for mask in range(DISTRIBUTION_MASKS)
            for run in runs
        ]
    return parts, (sum(p.stop - p.start for p in parts), 1)


class _Divided(VariationalNetwork):
    """With the dropout of the tokens that are here, window after window."""

    here: int

    def _mask_size(self) -> int:
        return DISTRIBUTION_MASKS * self.here * self.section.width if self.section.dropout else 0
