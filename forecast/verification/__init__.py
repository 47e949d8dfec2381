"""Scores forecast stores against truth, chunk by chunk, as sums that add; numpy only."""
