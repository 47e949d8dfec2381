"""Map projections of the sphere, forth and back, by their textbook formulas (Snyder 1987, Map projections)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from forecast.core.errors import ForecastError

Points = tuple[np.ndarray, np.ndarray]
KINDS = ("platecarree", "robinson", "orthographic", "north", "south")

# Robinson's table every 5 degrees: lengths of parallels and their distances from the equator (Snyder p. 329)
_LENGTH = np.array([1, .9986, .9954, .99, .9822, .973, .96, .9427, .9216, .8962, .8679, .835, .7986, .7597, .7186,
                    .6732, .6213, .5722, .5322])  # fmt: skip
_HEIGHT = np.array([0, .062, .124, .186, .248, .31, .372, .434, .4958, .5571, .6176, .6769, .7346, .7903, .8435,
                    .8936, .9394, .9761, 1])  # fmt: skip
_STEPS = np.arange(0, 91, 5.0)


@dataclass(frozen=True, eq=False)
class Projection:
    """A map plane.

    Attributes:
        kind: one of KINDS.
        forward: (longitudes, latitudes) in degrees -> (x, y); NaN for what lies on the other side.
        inverse: (x, y) -> (longitudes, latitudes); NaN outside the map.
        extent: west, east, south and north edge in the plane.
        outline: (n, 2) edge of the map in the plane.
        aspect: of a unit of y to one of x on the page.
    """

    kind: str
    forward: Callable[[np.ndarray, np.ndarray], Points]
    inverse: Callable[[np.ndarray, np.ndarray], Points]
    extent: tuple[float, float, float, float]
    outline: np.ndarray
    aspect: float = 1.0

    @property
    def shape(self) -> float:
        """Height of the map over its width on the page."""
        west, east, south, north = self.extent
        return (north - south) * self.aspect / (east - west)


def project(
    kind: str, centre: tuple[float, float], area: tuple[float, float, float, float] | None = None
) -> Projection:
    """A projection by name.

    Args:
        centre: longitude and latitude in the middle (the latitude counts for orthographic maps).
        area: north, west, south, east; of plate carrée maps only.

    Raises:
        ForecastError: an unknown name, or an area with another projection.
    """
    if kind not in KINDS:
        raise ForecastError(f"projection `{kind}`: choose one of {', '.join(KINDS)}")
    if kind == "platecarree":
        return plate_carree(centre[0], area)
    if area is not None:
        raise ForecastError(f"an area is drawn on the plate carrée projection, not on {kind}: leave one of them out")
    if kind == "robinson":
        return robinson(centre[0])
    if kind == "orthographic":
        return orthographic(*centre)
    return stereographic(centre[0], 1 if kind == "north" else -1)


def plate_carree(middle: float, area: tuple[float, float, float, float] | None = None) -> Projection:
    """Longitude and latitude as they are; regional maps are stretched to true shape in their middle."""
    if area is None:
        west, east, south, north = middle - 180.0, middle + 180.0, -90.0, 90.0
    else:
        north, west, south, east = area
        east = west + ((east - west) % 360.0 or 360.0)
    aspect = 1.0 if area is None or east - west > 120 else 1.0 / np.cos(np.radians((north + south) / 2))
    around = (west + east) / 2

    def forward(lon: np.ndarray, lat: np.ndarray) -> Points:
        return around + (lon - around + 180.0) % 360.0 - 180.0, lat + 0.0

    outline = np.array([(west, south), (east, south), (east, north), (west, north), (west, south)])
    return Projection(
        "platecarree", forward, lambda x, y: (x + 0.0, y + 0.0), (west, east, south, north), outline, aspect
    )


def robinson(middle: float) -> Projection:
    """Robinson's compromise for the whole globe."""

    def forward(lon: np.ndarray, lat: np.ndarray) -> Points:
        away = np.radians((lon - middle + 180.0) % 360.0 - 180.0)
        x = 0.8487 * np.interp(np.abs(lat), _STEPS, _LENGTH) * away
        return x, 1.3523 * np.sign(lat) * np.interp(np.abs(lat), _STEPS, _HEIGHT)

    def inverse(x: np.ndarray, y: np.ndarray) -> Points:
        lat = np.interp(np.abs(y) / 1.3523, _HEIGHT, _STEPS)
        away = np.degrees(x / (0.8487 * np.interp(lat, _STEPS, _LENGTH)))
        out = (np.abs(away) > 180.0) | (np.abs(y) > 1.3523)
        return np.where(out, np.nan, middle + away), np.where(out, np.nan, np.sign(y) * lat)

    lat = np.concatenate([np.linspace(-90, 90, 91), np.linspace(90, -90, 91)])
    side = np.repeat([180.0, -180.0], 91)
    x = 0.8487 * np.interp(np.abs(lat), _STEPS, _LENGTH) * np.radians(side)
    y = 1.3523 * np.sign(lat) * np.interp(np.abs(lat), _STEPS, _HEIGHT)
    edge = np.stack([x, y], axis=1)
    reach = 0.8487 * np.pi
    return Projection("robinson", forward, inverse, (-reach, reach, -1.3523, 1.3523), np.vstack([edge, edge[:1]]))


def orthographic(middle: float, latitude: float) -> Projection:
    """The globe as seen from far above a place."""
    sin0, cos0 = np.sin(np.radians(latitude)), np.cos(np.radians(latitude))

    def forward(lon: np.ndarray, lat: np.ndarray) -> Points:
        away, phi = np.radians(lon - middle), np.radians(lat)
        front = sin0 * np.sin(phi) + cos0 * np.cos(phi) * np.cos(away) >= 0
        x = np.cos(phi) * np.sin(away)
        y = cos0 * np.sin(phi) - sin0 * np.cos(phi) * np.cos(away)
        return np.where(front, x, np.nan), np.where(front, y, np.nan)

    def inverse(x: np.ndarray, y: np.ndarray) -> Points:
        rho2 = x**2 + y**2
        front = np.sqrt(np.clip(1.0 - rho2, 0.0, None))
        lat = np.degrees(np.arcsin(np.clip(front * sin0 + y * cos0, -1, 1)))
        lon = middle + np.degrees(np.arctan2(x, front * cos0 - y * sin0))
        return np.where(rho2 > 1, np.nan, lon), np.where(rho2 > 1, np.nan, lat)

    return Projection("orthographic", forward, inverse, (-1, 1, -1, 1), _circle(1.0))


def stereographic(middle: float, pole: int, edge: float = 20.0) -> Projection:
    """Around a pole (1 north, -1 south) to the latitude `edge`; `middle` points down."""
    radius = 2 * np.tan(np.radians(90 - edge) / 2)

    def forward(lon: np.ndarray, lat: np.ndarray) -> Points:
        rho = 2 * np.tan(np.radians(90 - np.clip(pole * lat, -80, 90)) / 2)
        away = np.radians(lon - middle)
        inside = rho <= radius * 1.001
        return np.where(inside, rho * np.sin(away), np.nan), np.where(inside, -pole * rho * np.cos(away), np.nan)

    def inverse(x: np.ndarray, y: np.ndarray) -> Points:
        rho = np.hypot(x, y)
        lat = pole * (90 - np.degrees(2 * np.arctan(rho / 2)))
        lon = middle + np.degrees(np.arctan2(x, -pole * y))
        return np.where(rho > radius, np.nan, lon), np.where(rho > radius, np.nan, lat)

    kind = "north" if pole > 0 else "south"
    return Projection(kind, forward, inverse, (-radius, radius, -radius, radius), _circle(radius))


def _circle(radius: float) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, 181)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
