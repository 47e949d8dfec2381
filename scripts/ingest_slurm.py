"""Ingest on the jobs of a SLURM cluster, through dask-jobqueue (pip install dask-jobqueue).

    python scripts/ingest_slurm.py CONFIG --jobs 32 --cores 8 --memory 64GB [--queue work] [--walltime 04:00:00]

Starts a scheduler here and asks SLURM for jobs whose Dask workers connect to it, then runs `forecast ingest`. Jobs may
come and go, and this script may be stopped and started again: finished slabs are kept. `forecast ingest --dry-run` says
how much memory each thread of a worker needs.
"""

from __future__ import annotations

import argparse

from forecast.core import config as configs
from pipelines.ingest import ingest


def main() -> None:
    """Read the options, start the jobs, ingest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config")
    parser.add_argument("--jobs", type=int, default=8)
    parser.add_argument("--cores", type=int, default=8, help="of each job; one slab is worked on by each")
    parser.add_argument("--memory", default="64GB", help="of each job")
    parser.add_argument("--queue", help="SLURM partition")
    parser.add_argument("--walltime", default="04:00:00")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=C")
    parser.add_argument("--update", action="store_true")
    given = parser.parse_args()
    from dask_jobqueue import SLURMCluster

    with SLURMCluster(cores=given.cores, processes=1, memory=given.memory, queue=given.queue,
                      walltime=given.walltime) as cluster:  # fmt: skip
        cluster.scale(jobs=given.jobs)
        settings = (*given.set, f"store.scheduler={cluster.scheduler_address}")
        for path in ingest(configs.load(given.config, settings), update=given.update):
            print(path)


if __name__ == "__main__":
    main()
