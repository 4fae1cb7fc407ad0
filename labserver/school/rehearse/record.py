"""A rehearsal as JSON, for who wants more than the table.

Times are in seconds, memory is in bytes, whole numbers:

    schema      "labserver.rehearsal/1"
    labserver   version that rehearsed
    fits        whether everybody came through with the expected verdict, in time and in memory
    sentence    the same in words
    carries     about how many people the memory of this host carries, null if nobody was measured
    plan        {people, notebook, exercise, expected, pause, window, seconds, keep_free}
    host        {cores, memory, free, kind}: `free` before anybody came; `kind` is "pss", "uss" or "rss"
    stopped     "" | "memory" | "deadline"
    took        seconds in all
    peak, cpu   of all kernels together: bytes, processor seconds
    busy        percentage of the processors' time that was used, by whatever runs on the host
    steps       [{what, half, worst, who}]
    people      [{number, state, problem, verdict, checks_seconds, peak, cpu, steps: [{lesson, cell, seconds}]}]
"""

from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from labserver.school.rehearse.findings import Findings
from labserver.school.rehearse.view import sentence

__all__ = ["to_json"]


def to_json(found: Findings) -> dict[str, Any]:
    """Return plain JSON data, as the module says."""
    numbers = ("people", "expected", "pause", "window", "seconds", "keep_free")
    exercise = found.plan.exercise
    return {
        "schema": "labserver.rehearsal/1",
        "labserver": version("labserver"),
        "fits": found.fits,
        "sentence": sentence(found),
        "carries": found.carries,
        "plan": {
            "notebook": found.plan.notebook.name,
            "exercise": exercise.name if exercise else None,
            **{name: getattr(found.plan, name) for name in numbers},
        },
        "host": asdict(found.host),
        "stopped": found.stopped,
        "took": found.took,
        "peak": found.peak,
        "cpu": found.cpu,
        "busy": found.busy,
        "steps": [asdict(row) for row in found.steps()],
        "people": [asdict(person) for person in found.people],
    }
