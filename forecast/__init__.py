"""Ensemble weather forecasters: from archive to trained model, 15-day ensembles and scores."""

__version__ = "0.1.0"
