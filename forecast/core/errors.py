"""The exceptions that the command line prints as a single line."""

from __future__ import annotations

import os


class ForecastError(Exception):
    """Bad input: what is wrong, where, and what would be right, in one sentence.

    Raised for everything that a user can mend (a config key, a file, a date). The CLI prints it
    without a traceback and exits with 1; every other exception is a bug and keeps its traceback.
    """


class Stopped(ForecastError):
    """Work that was asked to stop, has saved what it has, and goes on from there when started again."""

    @property
    def code(self) -> int:
        """Exit code: EX_TEMPFAIL of sysexits.h; 0 under torchrun, which would start the processes again at once."""
        return 0 if "TORCHELASTIC_RUN_ID" in os.environ else 75
