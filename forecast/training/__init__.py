"""Trains a forecaster: loop, curriculum, optimiser, checkpoints, monitoring."""
