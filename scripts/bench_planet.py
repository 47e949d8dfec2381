"""Figures of the sample planet for docs/planet.md: speed, climate, analysis errors, predictability.

python scripts/bench_planet.py [YEARS [TRUNCATION]]      # about a minute of CPU for 4 years
"""

from __future__ import annotations

import sys
import time

import numpy as np

from forecast import planet
from forecast.core.archive_sections import PlanetSource
from forecast.core.sphere import Harmonics
from forecast.planet.climate import annual
from forecast.planet.settings import GRAVITY, RADIUS

V = planet.variables.index
LEADS = (0, 4, 12, 20, 40, 60)
SHOWN = ("z_500", "u_200", "t_650", "q_800", "2t", "tp")


class Archive:
    """A whole archive in memory, which also plays the store of analyses."""

    def __init__(self, years: int, truncation: int) -> None:
        source = PlanetSource.model_validate({"kind": "planet", "years": years, "truncation": truncation})
        self.truncation = truncation
        wall, cpu = time.perf_counter(), time.process_time()
        slabs = list(planet.archive(source))
        self.dates, self.truth, self.analysis = (np.concatenate(a) for a in zip(*slabs, strict=True))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"T{truncation}: archive of {years} years with analyses: {wall:.0f} s, {cpu:.0f} CPU s")
        self.grid = planet.grid(source.truncation)
        self.weights = self.grid.areas / self.grid.areas.sum()
        self.good = np.isfinite(self.truth[:, 0, 0])

    def index(self, when: np.datetime64) -> int:
        return int(np.searchsorted(self.dates, when))

    def read(self, times: np.ndarray, variables: object = None) -> np.ndarray:
        return self.analysis[times]

    def rows(self, name: str, months: tuple[int, ...]) -> np.ndarray:
        """(T, latitude, longitude) of some months."""
        month = self.dates.astype("datetime64[M]").astype(int) % 12 + 1
        return self.truth[self.good & np.isin(month, months), V(name)].reshape(-1, *self.grid.shape)

    def transient(self, name: str) -> np.ndarray:
        """(T, G): less the mean and the first two harmonics of the year."""
        year = annual(self.dates[self.good])
        waves = np.concatenate([year, year[:, 1:2] ** 2, year[:, 1:2] * year[:, 2:]], 1)
        field = self.truth[self.good, V(name)].astype(float)
        return field - waves @ np.linalg.lstsq(waves, field, rcond=None)[0]

    def rms(self, field: np.ndarray) -> float:
        return float(np.sqrt((field.astype(float) ** 2).mean(0) @ self.weights))


def climate(a: Archive) -> None:
    """Jets, eddies, spectrum, seasons, rain."""
    half = a.grid.shape[0] // 2
    for name in ("u_200", "u_500", "u_800"):
        parts = []
        for label, months in (("year", tuple(range(1, 13))), ("DJF", (12, 1, 2)), ("JJA", (6, 7, 8))):
            mean = a.rows(name, months).mean((0, 2))
            parts.append(f"{label} north {mean[:half].max():.1f} south {mean[half:].max():.1f}")
        print(f"zonal mean {name}, maximum in m/s: " + "; ".join(parts))
    z = a.transient("z_500") / GRAVITY
    per_row = np.sqrt((z**2).mean(0).reshape(a.grid.shape).mean(1))
    row = int(np.abs(a.grid.rows - 53).argmin())
    print(f"transient z_500: globe {a.rms(z):.0f} gpm, 53N {per_row[row]:.0f}, equator {per_row[half]:.0f}")
    sphere = Harmonics(a.truncation, a.grid)
    u, v = (sphere.from_rows(a.truth[a.good][::20, V(name)].astype(float)) for name in ("u_500", "v_500"))
    cosine = np.cos(np.radians(a.grid.rows))[:, None] / RADIUS
    vorticity = sphere.power(sphere.divergence(v * cosine, -u * cosine)).mean(-1)[1:]
    n = np.arange(1, a.truncation + 1)
    energy = vorticity / (n * (n + 1)) / 2 * RADIUS**2
    slope = np.polyfit(np.log(n[7:20]), np.log(energy[7:20]), 1)[0]
    print(f"kinetic energy at 500 hPa per n, m2/s2 (slope 8-20 {slope:.1f}): " + " ".join(f"{e:.2f}" for e in energy))
    for name in ("2t", "t_650"):
        contrast = a.rows(name, (7, 8)).mean((0, 2)) - a.rows(name, (1, 2)).mean((0, 2))
        print(f"July-August less January-February, {name}: 53N {contrast[row]:+.1f} K, 53S {contrast[-1 - row]:+.1f} K")
    rain = 4000 * a.truth[a.good, V("tp")].mean(0)
    wet = (a.truth[a.good, V("tp")] > 1e-4).mean(0) @ a.weights
    dry, soaked = (100 * a.weights[side].sum() for side in (rain < 1, rain > 4))
    print(f"rain: {rain @ a.weights:.2f} mm/day, local means {rain.min():.2f} to {rain.max():.1f}")
    print(
        f"below 1 mm/day on {dry:.0f} % of the area, above 4 on {soaked:.0f} %; {100 * wet:.0f} % of 6 h above 0.1 mm"
    )


def analysis_errors(a: Archive) -> None:
    """Global error of the analyses over the global transient standard deviation, per variable."""
    ratios = {}
    for name in planet.variables:
        if name not in (*planet.static, "tp"):
            ratios[name] = a.rms((a.analysis - a.truth)[a.good, V(name)]) / a.rms(a.transient(name))
    print("analysis error / transient std: " + ", ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items()))


def predictability(a: Archive) -> None:
    """RMSE of the mean of 20 members, their spread, and the climate's std, of both physics from 6 starts."""
    starts = a.dates[0] + np.arange(6) * np.timedelta64(56, "D")
    for physics in ("perfect", "imperfect"):
        system, cpu = planet.PhysicsSystem(a, physics, a.truncation), time.process_time()
        square = {(name, k): np.zeros(2) for name in SHOWN for k in LEADS}
        for start in starts:
            for k, states in enumerate(system.forecast(start, range(20), LEADS[-1])):
                for name in SHOWN if k in LEADS else ():
                    field = states[:, V(name)]
                    error = field.mean(0) - a.truth[a.index(start) + k, V(name)]
                    square[name, k] += np.array([error**2, field.var(0, ddof=1)]) @ a.weights / starts.size
        print(f"{physics}: 6 starts x 20 members x 15 days in {time.process_time() - cpu:.0f} CPU s")
        for name in SHOWN:
            cells = [f"{6 * k} h {np.sqrt(e):.3g} / {np.sqrt(s):.3g}" for k in LEADS for e, s in [square[name, k]]]
            print(f"  {name} RMSE / spread: {', '.join(cells)}; climate {a.rms(a.transient(name)):.3g}")


if __name__ == "__main__":
    archive = Archive(*(int(a) for a in (*sys.argv[1:], *("4", "21")[len(sys.argv) - 1 :])))
    climate(archive)
    analysis_errors(archive)
    predictability(archive)
