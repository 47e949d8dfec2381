#!/usr/bin/env bash
#SBATCH --job-name=forecast-run
#SBATCH --array=0-3
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus=1
#SBATCH --time=4:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@60
#SBATCH --open-mode=append
#SBATCH --output=%x-%A-%a.log
#
# Shares the work of one `forecast run` among the tasks of a job array: each takes its part of the (start, member batch)
# items, and all write into one forecast store. A task that is killed, or stopped a minute before its wall time and
# queued again, goes on after its last finished step; so does the same command with another --array.
# From the repository's root, after `bash scripts/setup.sh` on a login node:
#
#   sbatch --array=0-7 scripts/generate_slurm.sh [options of `forecast run`, without --part]
#   sbatch scripts/generate_slurm.sh --checkpoint runs/demo/training/best --start 2008-02-01T00..2008-12-01T00/24h \
#       --members 50 --lead 15d --out hindcast.zarr
set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: sbatch [--array=0-7] scripts/generate_slurm.sh [options of forecast run]" >&2
    exit 2
fi
root=${SLURM_SUBMIT_DIR:-$PWD} # SLURM runs a copy of this file from its spool folder
forecast=$root/.venv/bin/forecast
if [ ! -x "$forecast" ]; then
    echo "generate_slurm: no $forecast; submit from the repository's root, after: bash scripts/setup.sh" >&2
    exit 1
fi

export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}
part=$((${SLURM_ARRAY_TASK_ID:-0} - ${SLURM_ARRAY_TASK_MIN:-0}))
parts=${SLURM_ARRAY_TASK_COUNT:-1}

queue_again() {
    task=${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}
    echo "generate_slurm: wall time is near; stopping, and queueing task $task again" >&2
    kill -TERM "$running"
    wait "$running" || true
    scontrol requeue "$task"
    exit 0
}
trap queue_again USR1

"$forecast" run "$@" --part "$part/$parts" &
running=$!
wait "$running"
