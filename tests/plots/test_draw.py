"""Every kind of picture is drawn from a store by the command; what cannot be drawn is refused in one line."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.animation import FFMpegWriter
from PIL import Image
from typer.testing import CliRunner

from forecast.cli import app
from forecast.core import grids
from forecast.core.errors import ForecastError
from forecast.core.forecasts import Forecasts
from forecast.plots import maps
from forecast.plots.draw import Request, draw
from forecast.plots.fields import Case, clock
from forecast.plots.meteogram import series
from forecast.plots.projections import project
from tests import ensembles, tiny

NAMES = ("z_500", "2t", "10u", "10v", "msl", "tp")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = ensembles.layout(names=NAMES, members=4)
    return ensembles.write(tmp_path_factory.mktemp("plots") / "f.zarr", made, skip=[(1, 0, 3)])


PICTURES = {
    "mean.png": ["map", "--variables", "2t"],
    "two.png": ["map", "--variables", "tp", "--products", "mean,tp>0.001", "--leads", "6h,12h", "--dpi", "50"],
    "member.svg": ["map", "--variables", "msl", "--products", "m2", "--area", "70,-30,20,50"],
    "globe.png": ["map", "--variables", "10si", "--projection", "orthographic", "--centre", "100,-30"],
    "stamps.png": ["stamps", "--variables", "z_500", "--projection", "south"],
    "spaghetti.png": ["spaghetti", "--variables", "z_500", "--levels", "540,552"],
    "meteogram.png": ["meteogram", "--variables", "2t,10si,tp", "--place", "48.1,11.6", "--style", "both"],
    "moving.gif": ["animation", "--variables", "msl", "--leads", "0h..12h", "--rate", "5"],
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(store: Path, tmp_path: Path, name: str) -> None:
    result = CliRunner().invoke(app, ["plot", str(store), "--dpi", "60", *PICTURES[name], "--to", str(tmp_path / name)])
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == [name]
    if name.endswith(".svg"):
        assert "<svg" in (tmp_path / name).read_text()[:500]
        return
    with Image.open(tmp_path / name) as picture:
        assert picture.size[0] >= 400
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 20
        if name.endswith(".gif"):
            assert picture.n_frames == 3 and picture.info["duration"] == 200


@pytest.mark.skipif(not FFMpegWriter.isAvailable(), reason="ffmpeg is not installed")
def test_an_animation_as_mp4_has_a_frame_a_lead(store: Path, tmp_path: Path) -> None:
    to = tmp_path / "moving.mp4"
    result = CliRunner().invoke(app, ["plot", str(store), *PICTURES["moving.gif"], "--to", str(to)])
    assert result.exit_code == 0, result.output
    command = ["ffmpeg", "-i", str(to), "-f", "null", "-"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "Duration: 00:00:00.60" in told  # three frames at five a second


def test_titles_say_what_when_and_of_whom(store: Path) -> None:
    case = Case(Forecasts.open(store), 1)
    (figure) = maps.fields_map(case, "tp", [2], [maps.Product("probability", 1e-3, "tp")], project("robinson", (0, 0)))
    texts = [text.get_text() for text in figure.texts]
    assert texts[0] == "Total precipitation in 6 h, probability > 1 mm [%]"
    assert texts[1] == "start Thu 2020-12-31 12 UTC  ·  +12 h  ·  valid Fri 2021-01-01 00 UTC  ·  test, 4 members"
    assert clock(np.datetime64("2020-02-29T06:30")) == "Sat 2020-02-29 06:30 UTC"


def test_a_meteogram_shows_the_members_of_its_place(store: Path) -> None:
    case = Case(Forecasts.open(store), 0)
    grid, point = case.grid, 5 * 32 + 7
    found = series(case, ["2t", "10si"], (grid.latitudes[point], grid.longitudes[point]))
    fields = [ensembles.states(ensembles.layout(names=NAMES, members=4), 0, k) for k in range(4)]
    np.testing.assert_allclose(found["2t"], [f["2t"][:, point] - 273.15 for f in fields], atol=1e-4)
    np.testing.assert_allclose(found["10si"], [np.hypot(f["10u"], f["10v"])[:, point] for f in fields], atol=1e-4)


def test_the_coast_is_that_of_the_store_beside_the_forecasts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(maps, "stamps", lambda case, *_: seen.append(case.land) or maps.Figure())
    grid = tiny.GRID
    plain = ensembles.write(tmp_path / "f.zarr", ensembles.layout(grid, ("2t",), 1, 1, 1))
    draw(plain, tmp_path / "a.png", Request("stamps"))
    tiny.make(tmp_path)
    draw(plain, tmp_path / "a.png", Request("stamps"))
    draw(plain, tmp_path / "a.png", Request("stamps", coast="earth"))
    own = ensembles.write(tmp_path / "own" / "f.zarr", ensembles.layout(grid, ("2t", "lsm"), 1, 1, 1))
    draw(own, tmp_path / "a.png", Request("stamps"))
    draw(own, tmp_path / "a.png", Request("stamps", coast=str(tmp_path / "truth.zarr")))
    assert [land is None for land in seen] == [True, False, True, False, False]
    np.testing.assert_array_equal(seen[1].share, np.sin(np.radians(grid.longitudes)) > 0)
    with pytest.raises(ForecastError, match="no store at"):
        draw(own, tmp_path / "a.png", Request("stamps", coast="nowhere.zarr"))


def test_regional_and_reduced_grids(tmp_path: Path) -> None:
    europe = grids.latlon(np.arange(60.0, 39, -5), np.arange(350.0, 381, 5) % 360)
    for name, grid in (("r", europe), ("o", grids.octahedral(8))):
        made = ensembles.write(tmp_path / f"{name}.zarr", ensembles.layout(grid, ("2t",), 2, 1, 1))
        assert draw(made, tmp_path / f"{name}.png", Request("map", dpi=40)).stat().st_size > 3000
    with pytest.raises(ForecastError, match="the place 0,0 lies outside the forecasts, which reach from 40 to 60 N"):
        draw(tmp_path / "r.zarr", tmp_path / "a.png", Request("meteogram", place=(0.0, 0.0)))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.png", "o.zarr", "r.png", "r.zarr"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["poster", "--to", "a.png"], "`poster` is no picture: choose one of map, stamps"),
        (["map", "--to", "a.gif"], "a.gif: a picture of this kind ends in one of .png"),
        (["animation", "--to", "a.png"], "ends in one of .gif, .mp4"),
        (["map", "--variables", "q_500", "--to", "a.png"], "no variable `q_500`: the store holds z_500, 2t"),
        (["map", "--variables", "ws_850", "--to", "a.png"], "no variable `ws_850`"),
        (["map", "--variables", "2t,tp", "--to", "a.png"], "one variable at a time for a map"),
        (["map", "--leads", "25h", "--to", "a.png"], "no lead 25h: the store holds 0h, 6h, 12h, 18h"),
        (["map", "--start", "2020-12-31T12", "--leads", "18h", "--to", "a.png"], "is not finished at lead time 18h"),
        (["map", "--start", "1999-01-01", "--to", "a.png"], "no start 1999-01-01"),
        (["map", "--products", "m9", "--to", "a.png"], "no member 9: the store holds 0, 1, 2, 3"),
        (["map", "--products", "tp>0.1", "--to", "a.png"], "tp>0.1: no variable `tp`, only 2t"),
        (["map", "--projection", "mercator", "--to", "a.png"], "projection `mercator`"),
        (["map", "--projection", "north", "--area", "70,0,20,50", "--to", "a.png"], "an area is drawn on"),
        (["map", "--centre", "5", "--to", "a.png"], "--centre 5: two numbers are expected"),
        (["map", "--area", "x", "--to", "a.png"], "--area x: write north,west,south,east"),
        (["meteogram", "--to", "a.png"], "a meteogram needs a place"),
        (["meteogram", "--place", "a,b", "--to", "a.png"], "--place a,b: numbers are expected"),
        (["meteogram", "--place", "1,2", "--style", "x", "--to", "a.png"], "style `x`: choose one of auto"),
        (["spaghetti", "--variables", "z_500", "--levels", "9", "--to", "a.png"], "no isoline of z_500 at 9 dam"),
    ],
)
def test_what_cannot_be_drawn(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["plot", str(store), *arguments])
    assert isinstance(result.exception, ForecastError), result.output
    assert reason in str(result.exception) and "\n" not in str(result.exception)
    assert not list(tmp_path.iterdir())
