"""What `forecast plot` is asked for becomes one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from forecast.core.errors import ForecastError
from forecast.core.forecasts import Forecasts
from forecast.core.store import Store
from forecast.outputs import products
from forecast.outputs.draft import draft
from forecast.outputs.selection import Area, lead_positions, member_positions, start_positions
from forecast.plots import maps
from forecast.plots.fields import Case, Land, components
from forecast.plots.meteogram import meteogram
from forecast.plots.projections import Projection, project

KINDS = ("map", "stamps", "spaghetti", "meteogram", "animation")
STILL, MOVING = (".png", ".svg", ".pdf", ".jpg"), (".gif", ".mp4")


@dataclass(frozen=True)
class Request:
    """A picture.

    Attributes:
        kind: one of KINDS.
        variables: names; one, but for meteograms. start, leads: as `select` takes them; first and last if absent.
        products: `mean`, `spread`, `q90`, `tp>0.001`, or `m3` for member 3.
        area, projection, centre: of the map; centre is longitude, latitude.
        place: latitude, longitude of a meteogram. levels: isolines of spaghetti, in the unit shown.
        style: of a meteogram. rate: frames a second. coast: auto, earth, or a store with `lsm`. dpi: of a still.
    """

    kind: str
    variables: tuple[str, ...] = ()
    start: str | None = None
    leads: tuple[str, ...] | None = None
    products: tuple[str, ...] = ("mean",)
    area: Area | None = None
    projection: str | None = None
    centre: tuple[float, float] | None = None
    place: tuple[float, float] | None = None
    levels: tuple[float, ...] = ()
    style: str = "auto"
    rate: float = 4.0
    coast: str = "auto"
    dpi: int = 150


def draw(store: Path, to: Path, request: Request) -> Path:
    """Draw a forecast of `store` into `to`, whose suffix says the format.

    Raises:
        ForecastError: something that the store does not hold, or a request that makes no sense.
    """
    _check(request, to)
    case = _case(store, request)
    leads = _leads(case, request)
    names = request.variables or ("2t",)
    for name in names:
        components(name, case.forecasts.variables)
        case.check(name, None if request.kind == "meteogram" else leads[0])
    with draft(to) as hidden, maps.settings():
        if request.kind == "animation":
            (what, *_) = _shown(request, names[0], case)
            maps.animate(case, names[0], leads, what, _plane(request, case), hidden, to, request.rate)
        else:
            maps.save(_still(request, case, names, leads), hidden, request.dpi)
    return to


def _still(request: Request, case: Case, names: Sequence[str], leads: list[int]) -> maps.Figure:
    if request.kind == "meteogram":
        assert request.place is not None
        return meteogram(case, names, request.place, request.style)
    plane = _plane(request, case)
    if request.kind == "stamps":
        return maps.stamps(case, names[0], leads[0], plane)
    if request.kind == "spaghetti":
        return maps.spaghetti(case, names[0], leads[0], request.levels, plane)
    return maps.fields_map(case, names[0], leads, _shown(request, names[0], case), plane)


def _check(request: Request, to: Path) -> None:
    if request.kind not in KINDS:
        raise ForecastError(f"`{request.kind}` is no picture: choose one of {', '.join(KINDS)}")
    wanted = MOVING if request.kind == "animation" else STILL
    if to.suffix.lower() not in wanted:
        raise ForecastError(f"{to}: a picture of this kind ends in one of {', '.join(wanted)}")
    if request.kind == "meteogram" and request.place is None:
        raise ForecastError("a meteogram needs a place: --place LATITUDE,LONGITUDE")
    if request.kind != "meteogram" and len(request.variables) > 1:
        raise ForecastError(f"one variable at a time for a {request.kind}, not {', '.join(request.variables)}")


def _case(path: Path, request: Request) -> Case:
    forecasts = Forecasts.open(path)
    starts = start_positions(forecasts, [request.start] if request.start else None)
    if request.coast == "earth":
        return Case(forecasts, int(starts[0]))
    return Case(forecasts, int(starts[0]), _land(forecasts, request.coast))


def _leads(case: Case, request: Request) -> list[int]:
    """Positions of the lead times: for an animation all that are finished, for the rest the last, if none are given."""
    if request.leads is not None:
        return [int(k) for k in lead_positions(case.forecasts, request.leads)]
    finished = np.flatnonzero(case.forecasts.finished[case.start])
    if not finished.size:
        raise ForecastError(f"{case.forecasts.path}: nothing of this start is finished; complete the run first")
    return [int(k) for k in (finished if request.kind == "animation" else finished[-1:])]


def _shown(request: Request, variable: str, case: Case) -> list[maps.Shown]:
    """Products, and members by their numbers."""
    found: list[maps.Shown] = []
    for text in request.products:
        if text[:1] == "m" and text[1:].isdigit():
            found.append(int(member_positions(case.forecasts, [text[1:]])[0]))
        else:
            found += products.parse([text], (variable,), len(case.forecasts.members))
    return found


def _plane(request: Request, case: Case) -> Projection:
    """The projection asked for; Robinson for the globe and plate carrée for regions where none is."""
    area, kind, grid = request.area, request.projection, case.grid
    if area is None and not grid.is_global and kind in (None, "platecarree"):
        lon = np.sort(grid.longitudes)
        gap = int(np.argmax(np.diff(lon, append=lon[0] + 360.0)))
        west, east = lon[(gap + 1) % lon.size], lon[gap]
        area = (float(grid.latitudes.max()), float(west), float(grid.latitudes.min()), float(east))
    if area is not None and kind is None:
        kind = "platecarree"
    centre = request.centre or ((0.0, 45.0) if kind == "orthographic" else (0.0, 0.0))
    return project(kind or "robinson", centre, area)


def _land(forecasts: Forecasts, coast: str) -> Land | None:
    """The land-sea mask of the forecasts, of the store that is given, or of a store of the same grid beside them."""
    if coast != "auto":
        found = _mask(Path(coast))
        if found is None:
            raise ForecastError(f"{coast} holds no land-sea mask `lsm`")
        return found
    if "lsm" in forecasts.variables and forecasts.units[0, 0, 0]:
        return Land(forecasts.grid, forecasts.read_unit("lsm", (0, 0, 0))[0])
    for beside in sorted(forecasts.path.resolve().parent.glob("*.zarr")):
        try:
            found = _mask(beside)
        except ForecastError:
            continue
        if found is not None and np.array_equal(found.grid.latitudes, forecasts.grid.latitudes):
            return found
    return None


def _mask(path: Path) -> Land | None:
    store = Store.open(path)
    if "lsm" not in store.variables:
        return None
    day = int(np.flatnonzero(~store.missing)[0])
    return Land(store.grid, store.read(day, ["lsm"])[0, 0])
