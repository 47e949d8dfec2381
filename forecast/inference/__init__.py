"""Rolls out ensembles of any size, step by step, into forecast stores."""
