"""Two servers in two threads prepare their routes at once, and no warning slips into what the notebook shows."""

import subprocess
import sys
import warnings

from pydantic.warnings import UnsupportedFieldAttributeWarning

from labserver.stage import start
from labserver.stage.noise import hush

RACE = """
import sys, threading, warnings
from typing import Annotated
from pydantic import Field, TypeAdapter
from pydantic.warnings import UnsupportedFieldAttributeWarning
from labserver.stage.noise import hush

if {hushed}:
    hush()

def as_fastapi_does(times):
    for number in range(times):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=UnsupportedFieldAttributeWarning)
            TypeAdapter(Annotated[int, Field(alias=f"a{{number}}")])

sys.setswitchinterval(1e-5)
threads = [threading.Thread(target=as_fastapi_does, args=(300,)) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def said(hushed: bool) -> str:
    program = [sys.executable, "-c", RACE.format(hushed=hushed)]
    return subprocess.run(program, capture_output=True, text=True, check=True).stderr


def test_the_race_says_something_unless_hushed() -> None:
    assert any("UnsupportedFieldAttributeWarning" in said(hushed=False) for _ in range(20))  # it is a race
    assert said(hushed=True) == ""


def test_start_hushes_and_other_warnings_are_still_heard() -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with start(name="noise"):
            warnings.warn("slips through", UnsupportedFieldAttributeWarning, stacklevel=1)
            warnings.warn("is heard", UserWarning, stacklevel=1)
        hush()
    assert [
        str(each.message) for each in heard if each.category in (UserWarning, UnsupportedFieldAttributeWarning)
    ] == ["is heard"]
