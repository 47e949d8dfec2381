"""The page in a browser: headless Chromium, where there is one, draws and prints it and works its controls."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = next((b for b in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if b), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: the page is not tried in one")
PROBE = """<script>
const at = (name) => document.getElementById("card-" + name), out = {};
const seen = () => [...document.querySelectorAll("#card tbody tr")].map((r) => [...r.cells].map((c) => c.textContent));
const controls = document.getElementById("controls");
const set = (name, value) => { at(name).value = value; controls.dispatchEvent(new Event("change")); };
out.first = seen();
out.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.querySelector("#card th.lead button").click(); out.sorted = seen();
document.querySelector("#card th.lead button").click(); document.querySelector("#card th.lead button").click();
set("variable", "tp"); out.tp = seen(); set("variable", "all");
set("level", "500"); out.level = seen(); set("level", "all");
set("view", "score"); out.score = seen(); set("view", "change");
const [a, b] = [at("ours").value, at("theirs").value];
at("ours").value = b; set("theirs", a); out.swapped = seen();
const find = document.getElementById("find"); find.value = "z_500 imperfect"; find.dispatchEvent(new Event("input"));
const all = [...document.querySelectorAll("#table tbody tr")];
out.found = all.filter((r) => !r.hidden).map((r) => r.cells[1].textContent);
document.body.innerHTML = "<pre>" + JSON.stringify(out).replaceAll("<", "") + "</pre>";
</script>"""


def browse(page: Path, *options: str) -> str:
    """What Chromium answers."""
    assert BROWSER
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
    done = subprocess.run([BROWSER, *quiet, *options, page.as_uri()], capture_output=True, timeout=120, check=True)
    return done.stdout.decode()


@pytest.fixture(scope="session")
def found(page: Path) -> dict[str, list[list[str]]]:
    probe = page.with_name("probe.html")
    probe.write_text(page.read_text().replace("</body>", PROBE + "</body>"))
    text = browse(probe, "--window-size=390,800", "--dump-dom")
    (answer,) = re.findall("<pre>(.*)</pre>", text)
    result: dict[str, list[list[str]]] = json.loads(answer.replace("&gt;", ">").replace("&amp;", "&"))
    return result


def number(text: str) -> float:
    return float(re.sub("[▲▼]", "", text).replace("−", "-"))


def test_the_card_that_scripts_draw_is_the_one_that_is_written(page: Path, found: dict[str, list[list[str]]]) -> None:
    body = re.search(r'id="card">.*?<tbody>(.*?)</tbody>', page.read_text(), re.DOTALL)
    assert body
    written = [re.findall(r"<(?:th|td)[^>]*>(.*?)</t[hd]>", row) for row in body[1].split("</tr>")[:-1]]
    assert [[re.sub("<.*?>", "", text) for text in row] for row in written] == found["first"]


def test_a_phone_need_not_scroll_the_page_sideways(found: dict[str, list[list[str]]]) -> None:
    assert found["wide"] == 0


def test_rows_sort_and_filter(found: dict[str, list[list[str]]]) -> None:
    first = [number(row[2]) for row in found["sorted"]]
    assert first == sorted(first) and len(first) == 4
    assert [row[0] for row in found["tp"]] == ["tp"] and [row[:2] for row in found["level"]] == [["z", "500"]]
    assert found["found"] == ["imperfect model"]


def test_swapped_forecasts_swap_the_sign(found: dict[str, list[list[str]]]) -> None:
    for ours, theirs in zip(found["first"], found["swapped"], strict=True):
        ratio = (1 + number(ours[2]) / 100) * (1 + number(theirs[2]) / 100)
        assert ratio == pytest.approx(1, abs=0.05)
    assert all(number(row[2]) >= 0 for row in found["score"])


def test_it_prints(page: Path, tmp_path: Path) -> None:
    browse(page, f"--print-to-pdf={tmp_path / 'r.pdf'}")
    assert (tmp_path / "r.pdf").read_bytes().startswith(b"%PDF")
