#!/usr/bin/env bash
#SBATCH --job-name=forecast-train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
#
# Trains with one process or many, and queues itself again two minutes before its wall time, as often as it takes: it
# goes on from the last checkpoint. From the repository's root, after `bash scripts/setup.sh` on a login node:
#
#   sbatch scripts/train_slurm.sh CONFIG OUT [further options of `forecast train`]
#
# Options of sbatch override the lines above: sbatch --gpus-per-node=0 scripts/train_slurm.sh demo runs/demo
# One task for each GPU; how they share the work is said by training.mesh (docs/parallel.md):
#
#   sbatch --nodes=16 --ntasks-per-node=4 --gpus-per-node=4 scripts/train_slurm.sh aifs_crps_n320 OUT \
#       --set training.mesh.grid=4 --set training.compile=false
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: sbatch scripts/train_slurm.sh CONFIG OUT [options of forecast train]" >&2
    exit 2
fi
config=$1 out=$2
root=${SLURM_SUBMIT_DIR:-$PWD} # SLURM runs a copy of this file from its spool folder
forecast=$root/.venv/bin/forecast
if [ ! -x "$forecast" ]; then
    echo "train_slurm: no $forecast; submit from the repository's root, after: bash scripts/setup.sh" >&2
    exit 1
fi

export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
resume=()
if [ -e "$out/training/latest" ]; then
    resume=(--resume)
fi

queue_again() {
    echo "train_slurm: wall time is near; stopping, and queueing job $SLURM_JOB_ID again" >&2
    kill -TERM "$training"
    wait "$training" || true
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
trap queue_again USR1

start=()
if [ "${SLURM_NTASKS:-1}" -gt 1 ]; then
    start=(srun --kill-on-bad-exit=1)
fi
"${start[@]}" "$forecast" train "$config" --out "$out" "${resume[@]}" "${@:3}" &
training=$!
wait "$training"
