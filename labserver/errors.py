"""The one exception a user of the lab is meant to read: a sentence that says what is wrong and what to do.

The command line prints it without a traceback and exits with code 2; a notebook shows it as the last line of its error.
"""

__all__ = ["LabError"]


class LabError(Exception):
    """What went wrong and what to do about it, in one sentence."""
