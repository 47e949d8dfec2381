"""The one exception that the command line prints as a single line."""


class ForecastError(Exception):
    """Bad input: what is wrong, where, and what would be right, in one sentence.

    Raised for everything that a user can mend (a config key, a file, a date). The CLI prints it
    without a traceback and exits with 1; every other exception is a bug and keeps its traceback.
    """
