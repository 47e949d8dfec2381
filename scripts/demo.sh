#!/usr/bin/env bash
# From nothing to a scored 15-day ensemble: sets up, then runs the main job on the sample planet.
#   bash scripts/demo.sh [OUT, default runs/demo] [further options of `forecast demo`]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
bash "$root/scripts/setup.sh"
out=${1:-$root/runs/demo}
exec "$root/.venv/bin/forecast" demo --out "$out" "${@:2}"
