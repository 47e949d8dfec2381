"""Scores forecast stores against truth, chunk by chunk, as sums that add; numpy only."""

from forecast.verification.checks import Check, skill_checks, write_checks
from forecast.verification.results import Scores, open_scores
from forecast.verification.score import score
from forecast.verification.sums import Sums

__all__ = ["Check", "Scores", "Sums", "open_scores", "score", "skill_checks", "write_checks"]
