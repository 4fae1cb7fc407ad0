"""A warning that reaches a notebook by accident, and how it is kept out.

FastAPI hides a warning of pydantic's while it prepares a route (`fastapi/_compat/v2.py`), by `warnings.catch_warnings`.
That is not safe in threads: with two servers in two threads one puts the other's filters back, and now and then the
warning slips through, into the output of whatever cell is running.
"""

import contextlib
import warnings

__all__ = ["hush"]


def hush() -> None:
    """Ignore that warning for good, so that it does not matter whose filters are put back. Again is harmless."""
    with contextlib.suppress(ImportError):  # a pydantic before 2.12 has no such warning
        from pydantic.warnings import UnsupportedFieldAttributeWarning

        # With a message, so that it is not the very filter that FastAPI takes out for a moment to put it in again.
        warnings.filterwarnings("ignore", message=".", category=UnsupportedFieldAttributeWarning)
