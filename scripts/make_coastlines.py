#!/usr/bin/env python3
"""Make forecast/core/coastlines.json from the npm package world-atlas (Natural Earth land, public domain).

npm pack world-atlas@2.0.2 && python scripts/make_coastlines.py world-atlas-2.0.2.tgz forecast/core/coastlines.json
"""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path

ABOUT = (
    "Coastlines, Natural Earth 1:110m land (public domain), from npm world-atlas 2.0.2 (ISC); "
    "longitude, latitude in hundredths of a degree"
)


def lines(topology: dict) -> list[list[int]]:
    """The rings of the land's polygons, without the closing pieces along the date line and the pole."""
    (sx, sy), (tx, ty) = topology["transform"]["scale"], topology["transform"]["translate"]
    arcs = []
    for arc in topology["arcs"]:
        x = y = 0
        points = []
        for dx, dy in arc:
            x, y = x + dx, y + dy
            points.append((round((x * sx + tx) * 100), round((y * sy + ty) * 100)))
        arcs.append(points)
    (land,) = topology["objects"]["land"]["geometries"]
    found = []
    for ring in (ring for polygon in land["arcs"] for ring in polygon):
        points = [point for k in ring for point in (arcs[k] if k >= 0 else arcs[~k][::-1])]
        piece: list[int] = []
        for point in points:
            if abs(point[0]) >= 17999 or point[1] <= -8999:
                found.append(piece)
                piece = []
            elif piece[-2:] != list(point):
                piece += point
        found.append(piece)
    return [piece for piece in found if len(piece) > 2]


def main(package: str, out: str) -> None:
    """Read land-110m.json out of the npm archive `package` and write the lines to `out`."""
    with tarfile.open(package) as archive:
        member = archive.extractfile("package/land-110m.json")
        assert member is not None
        topology = json.load(member)
    found = lines(topology)
    Path(out).write_text(json.dumps({"about": ABOUT, "lines": found}, separators=(",", ":")))
    print(f"{out}: {len(found)} lines, {sum(map(len, found)) // 2} points")


if __name__ == "__main__":
    main(*sys.argv[1:])
