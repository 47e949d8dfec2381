"""The report: complete, self-contained, readable without pictures, and honest about what it shows."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from forecast.core import grids
from forecast.core.errors import ForecastError
from forecast.report import scorecard, style
from forecast.report.page import render, write_report
from forecast.report.shown import Shown, load
from tests.report.made import EUROPE, GLOBE, scored

FEW = ("fair_crps", "rmse", "spread_skill", "rank_histogram", "reliability", "sharpness", "brier", "power_truth")


@pytest.fixture(scope="session")
def html(page: Path) -> str:
    return page.read_text()


class Page(HTMLParser):
    """Ids, images and links of a page; fails on tags that are not closed in order."""

    VOID = {"meta", "img", "input", "br", "link"}

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.images: list[dict[str, str]] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {k: v or "" for k, v in attrs}
        self.ids += [found["id"]] if "id" in found else []
        self.images += [found] if tag == "img" else []
        self.links += [found[k] for k in ("href", "src", "action", "data") if k in found]
        assert tag not in {"link", "iframe", "object"} and not (tag == "script" and "src" in found)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_all_sections_are_there_and_nothing_is_fetched(html: str) -> None:
    page = Page(html)
    wanted = {
        "skill",
        "curves",
        "scorecard",
        "reliability",
        "events",
        "spectra",
        "maps",
        "numbers",
        "run",
        "definitions",
    }
    assert wanted <= set(page.ids) and len(page.ids) == len(set(page.ids))
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert "http://" not in html and "https://" not in html and "@import" not in html and "url(" not in html
    for image in page.images:
        kind, data = image["src"].split(";base64,")
        if kind == "data:image/svg+xml":
            svg = base64.b64decode(data).decode()
            assert not re.search(r'href="(?!#|data:)', svg) and "<script" not in svg
    assert len(html) < 5_000_000


def test_images_have_text_alternatives_and_the_title_is_escaped(html: str) -> None:
    images = Page(html).images
    assert len(images) == 17 and all(len(image["alt"]) > 30 for image in images)
    assert "A &lt;test&gt; &amp; more" in html and "A <test>" not in html


def test_the_report_says_what_was_run(html: str) -> None:
    run = (
        "learnt ensemble 6",
        "imperfect model 4",
        "climatology 11",
        "gaussian-12x24",
        "3: 2002-03-01T00, 2002-06-01T00",
    )
    how = (
        "exact cell areas",
        "roots and ratios last",
        "of one member the fair CRPS is the MAE",
        "30 pairs of start and",
    )
    for text in (*run, *how, "Fair CRPS below imperfect at 72 h", "✓ yes"):
        assert text in html, text


def test_the_same_scores_make_the_same_report(globe: Path, html: str, tmp_path: Path) -> None:
    assert write_report(globe, tmp_path / "b.html").read_text() == html


def test_one_variable_one_start_one_member_without_climatology(tmp_path: Path) -> None:
    scores = scored(tmp_path, GLOBE, ("2t",), 1, {"model": 1}, climatology=False, scores=FEW)
    html = write_report(scores, tmp_path / "r.html").read_text()
    assert "reliability" not in Page(html).ids  # one member has no spread
    assert "No climatological ensemble" in html and "Climatological ensemble</dt><dd>none" in html


@pytest.mark.parametrize("grid", [EUROPE, grids.octahedral(8)], ids=["regional", "reduced"])
def test_other_grids(grid: grids.Grid, tmp_path: Path) -> None:
    scores = scored(tmp_path, grid, ("z_500", "tp"), 1, {"model": 4}, scores=FEW)
    html = write_report(scores, tmp_path / "r.html").read_text()
    assert "spectra" not in Page(html).ids and "coastlines (Natural Earth)" in html


def test_scorecard_shows_relative_differences_in_the_right_colour(globe: Path) -> None:
    shown = load(globe)
    card = scorecard.scorecard(shown, "climatology", "tropics")
    ours = shown.metrics["learnt"]["fair_crps"].sel(variable="msl", region="tropics").values
    theirs = shown.metrics["climatology"]["fair_crps"].sel(variable="msl", region="tropics").values
    row = next(row for row in card.rows if row.short == "msl")
    percent = 100 * (ours / theirs - 1)
    for cell, value in zip(row.cells, percent, strict=True):
        assert float(cell.text.replace("−", "-")) == pytest.approx(value, abs=0.51)
        blue = int(cell.fill[5:7], 16) >= int(cell.fill[1:3], 16)
        assert blue == (value < 1)
    assert row.long_name == "Mean sea level pressure"


def test_colours_of_the_scorecard_meet_the_contrast_that_readers_need() -> None:
    """WCAG AA asks for 4.5 between text and ground."""

    def luminance(colour: str) -> float:
        c = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
        linear = np.where(c <= 0.03928, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for cell in scorecard.legend():
        light, dark = sorted((luminance(cell.fill), luminance(cell.ink)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5, cell


def test_units_are_those_that_forecasters_read(globe: Path) -> None:
    shown = load(globe)
    assert [shown.unit(v) for v in ("z_500", "msl", "tp", "2t")] == ["m² s⁻²", "hPa", "mm", "K"]
    raw = shown.metrics["learnt"]["rmse"].sel(variable="tp", region="globe").values
    assert np.allclose(shown.values("learnt", "rmse", "tp"), 1e3 * raw)
    power = shown.metrics["learnt"]["power_truth"].sel(variable="tp", region="globe").values
    assert np.allclose(shown.values("learnt", "power_truth", "tp"), 1e6 * power)


def test_missed_statements_are_marked(globe: Path) -> None:
    checks = json.loads((globe / "checks.json").read_text())
    shown = load(globe)
    few = {label: metrics[["fair_crps", "rmse", "starts"]] for label, metrics in shown.metrics.items()}
    missed = Shown(shown.summary, few, [checks[0] | {"ok": False}], shown.case)
    with style.settings():
        html = render(missed)
    assert "✗ no" in html and "0 of 1" in html


@pytest.mark.parametrize("what", ["nothing", "damaged"])
def test_no_scores_no_report(what: str, tmp_path: Path) -> None:
    if what == "damaged":
        (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(ForecastError, match="holds no scores"):
        write_report(tmp_path, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()
