"""Whether this process serves an answer for others to judge. Kept apart so that such a process imports next to nothing.

An answer that calls `check` or `hint` itself must not start a check of its own while it is served.
"""

__all__ = ["on", "serving"]

_serving = False


def on() -> None:
    """Say that this process serves an answer."""
    global _serving
    _serving = True


def serving() -> bool:
    """Whether it does."""
    return _serving
