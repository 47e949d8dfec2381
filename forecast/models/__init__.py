"""Forecasters and what they are made of; no parallelism and no input or output in here."""
