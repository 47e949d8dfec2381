#!/usr/bin/env bash
# Sets up, then runs lint, types, dependency check and tests. Arguments go to pytest: scripts/test.sh tests/data -m slow
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
bash "$root/scripts/setup.sh"
cd "$root"
export PATH=$root/.venv/bin:$PATH
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1 # the workers share the cores

failed=()
check() {
    echo "== $*"
    "$@" || failed+=("${*:1:2}")
}

check ruff check .
check ruff format --check .
check mypy
check deptry .
# Each worker gets whole files, so that a file's fixtures are made once.
check pytest -q --numprocesses 2 --dist loadfile "$@"

if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
