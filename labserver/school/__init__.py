"""Exercises: built from solutions, checked over the wire, hinted at, graded.

The names below are what an exercise's notebook calls, imported on first use.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labserver.school.notebook import begin, check, hint, progress, replay

__all__ = ["begin", "check", "hint", "progress", "replay"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from labserver.school import notebook

    return getattr(notebook, name)


def __dir__() -> list[str]:
    return __all__
