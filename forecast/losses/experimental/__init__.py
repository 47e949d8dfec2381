"""Losses built from memory of their papers: each warns once, and none is meant for a run that matters."""
