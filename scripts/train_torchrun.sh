#!/usr/bin/env bash
# Trains with several processes, on this host or on several, started by torchrun:
#
#   PROCESSES=4 bash scripts/train_torchrun.sh CONFIG OUT [further options of `forecast train`]
#   NODES=2 HOST=node01 PROCESSES=4 bash scripts/train_torchrun.sh CONFIG OUT ...      on each of two hosts
#
# PROCESSES: of each host, one for each GPU (1 if there is none). NODES: hosts. HOST: the one that all can reach, PORT: a
# free port there. RESTARTS: how often all begin again from the last checkpoint when a process has died. WAIT: seconds to
# wait for HOST. OMP_NUM_THREADS: of each process. OUT must be the same folder on all hosts. How processes share the work
# is said by training.mesh (docs/parallel.md): --set training.mesh.ensemble=2 --set training.mesh.grid=2
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: PROCESSES=N bash scripts/train_torchrun.sh CONFIG OUT [options of forecast train]" >&2
    exit 2
fi
config=$1 out=$2
root=$(cd "$(dirname "$0")/.." && pwd)
programs=${FORECAST_BIN:-$root/.venv/bin}
if [ ! -x "$programs/torchrun" ]; then
    echo "train_torchrun: no $programs/torchrun; first run: bash scripts/setup.sh" >&2
    exit 1
fi

# Wait until HOST PORT answers, for so many SECONDS at most.
reach() {
    local until=$((SECONDS + $3))
    until timeout 2 bash -c ": >/dev/tcp/$1/$2" 2>/dev/null; do
        if [ "$SECONDS" -ge "$until" ]; then
            echo "train_torchrun: no rendezvous at $1:$2 within $3 s: is HOST up, has it started, is PORT open?" >&2
            exit 1
        fi
        sleep 0.5
    done
}

gpus=0
if command -v nvidia-smi >/dev/null; then
    gpus=$(nvidia-smi --list-gpus | wc -l)
fi
processes=${PROCESSES:-$((gpus > 0 ? gpus : 1))} nodes=${NODES:-1} host=${HOST:-localhost} port=${PORT:-29500}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

at=(--standalone)
if [ "$nodes" -gt 1 ]; then
    mine=" localhost $(hostname) $(hostname -f 2>/dev/null || true) $(hostname -I 2>/dev/null || true) "
    first=1
    if [ "${mine#* "$host" }" = "$mine" ]; then
        first=0
        reach "$host" "$port" "${WAIT:-60}"
    fi
    at=(--nnodes "$nodes" --rdzv-backend c10d --rdzv-endpoint "$host:$port" --rdzv-id "${RUN:-forecast}"
        --rdzv-conf "is_host=$first")
fi
resume=()
if [ -e "$out/training/latest" ]; then
    resume=(--resume)
fi
exec "$programs/torchrun" "${at[@]}" --nproc-per-node "$processes" --max-restarts "${RESTARTS:-3}" --no-python \
    "$programs/forecast" train "$config" --out "$out" "${resume[@]}" "${@:3}"
