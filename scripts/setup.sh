#!/usr/bin/env bash
# Makes .venv in the repository's root with all that demo, tests and training need; does nothing when it is up to date.
#
#   FORECAST_PYTHON   the Python to use (default: the first of python3, python3.11 .. python3.14 that is >= 3.11)
#   FORECAST_TORCH    the PyTorch to install (default: torch==2.13.0; e.g. FORECAST_TORCH="torch>=2.5")
#   FORECAST_EXTRAS   extras of pyproject.toml to install (default: test)
#
# Which build of PyTorch comes (CPU or CUDA) is the package index's choice. To have the small CPU build from PyTorch's own
# index: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu bash scripts/setup.sh
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
stamp=$venv/forecast-setup # what was installed here, or "unfinished"
torch=${FORECAST_TORCH:-torch==2.13.0}
extras=${FORECAST_EXTRAS-test}

# Its metadata asks for zarr<=2.18.7, with which nothing here would work; it works with zarr 3, so its pins are left out.
# Of what it declares, opening a store imports only aniso8601 besides our own dependencies, and pandas must be < 3.
anemoi=(anemoi-datasets==0.5.47 anemoi-transform==0.5.1 anemoi-utils==0.5.14 aniso8601==10.0.1)
pandas="pandas<3"

say() { echo "setup: $*" >&2; }

wanted() { # a fingerprint of what should be there; the path is part of it because a .venv can't be moved
    { echo "$root $torch $extras"; cat "$root/pyproject.toml" "$root/scripts/setup.sh"; } | sha256sum | cut -d' ' -f1
}

up_to_date() { [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$1" ]; }

record() { echo "$1" >"$stamp.new" && mv -f "$stamp.new" "$stamp"; }

find_python() {
    local python
    for python in ${FORECAST_PYTHON:+"$FORECAST_PYTHON"} python3 python3.{11..14} python; do
        if "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$python"
            return
        fi
        [ "$python" != "${FORECAST_PYTHON:-}" ] || break
    done
    say "no Python >= 3.11 with the venv module found (looked at ${FORECAST_PYTHON:-python3, python3.11 .. python3.14});" \
        "install one (Debian: apt install python3 python3-venv) or name it with FORECAST_PYTHON=/path/to/python"
    return 1
}

install() {
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-warn-conflicts "$@"
}

make_venv() {
    local python
    if [ ! -x "$venv/bin/python" ] || [ "$(cat "$stamp" 2>/dev/null)" = unfinished ]; then
        python=$(find_python)
        say "making .venv with $python ($("$python" --version))"
        "$python" -m venv --clear "$venv"
    fi
    record unfinished
    say "installing $torch (the longest step)"
    install "$torch" "numpy>=2.2"
    say "installing forecast${extras:+[$extras]} and its libraries"
    install "$pandas" --editable "$root${extras:+[$extras]}"
    say "installing ${anemoi[0]} without its pins"
    install --no-deps "${anemoi[@]}"
    record "$1"
    say "done in $SECONDS s: $venv"
}

wanted=$(wanted)
if ! up_to_date "$wanted"; then
    exec 9>>"$root/.venv.lock"
    ! command -v flock >/dev/null || flock --nonblock 9 || { say "waiting for another set-up to finish" && flock 9; }
    up_to_date "$wanted" || make_venv "$wanted"
fi
