"""Ensemble weather forecasters: from archive to trained model, 15-day ensembles and scores."""

import os

# torch's threads wait actively for each other; beside our own threads (models/kernels.py) on few cores they should do
# so for microseconds, not milliseconds: an update took 0.14 s in place of 0.18 s on 2 cores, on busy ones a quarter.
# Read when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"
