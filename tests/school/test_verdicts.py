"""Results survive JSON, add up, and refuse what is none."""

import json

import pytest

from labserver.school.verdicts import CheckResult, Report, summarise

PASSED = CheckResult("one", 40, 40, "passed")
FAILED = CheckResult("two", 60, 0, "failed", seen="1006", expected="1003")
NEVER = CheckResult("two", 60, 0, "never ran")


def test_survives_json():
    report = summarise("01_x", (PASSED, FAILED), seed=7, misconception="m")
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


@pytest.mark.parametrize(
    ("checks", "verdict", "points"),
    [
        ((PASSED,), "solved", 40),
        ((PASSED, FAILED), "partial", 40),
        ((PASSED, NEVER), "partial", 40),
        ((FAILED,), "wrong", 0),
        ((NEVER,), "timed out", 0),
        ((), "wrong", 0),
    ],
)
def test_adds_up(checks, verdict, points):
    report = summarise("01_x", checks)
    assert (report.verdict, report.points) == (verdict, points)
    assert report.solved == (verdict == "solved")


def test_failed_names_everything_that_did_not_pass():
    assert summarise("01_x", (PASSED, NEVER)).failed == {"two"}


@pytest.mark.parametrize(
    "data",
    [
        [],
        {"exercise": "x"},
        {"exercise": "x", "verdict": "brilliant"},
        {"exercise": "x", "verdict": "solved", "extra": 1},
        {"exercise": "x", "verdict": "solved", "checks": [{"name": "a"}]},
        {"exercise": "x", "verdict": "solved", "checks": [{"name": "a", "points": 1, "earned": 1, "verdict": "ok"}]},
    ],
)
def test_refuses_what_is_no_report(data):
    with pytest.raises(ValueError, match=r"expected an object|missing field|unknown"):
        Report.from_json(data)
