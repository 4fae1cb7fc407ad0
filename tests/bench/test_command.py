"""`labserver bench`: wrong arguments are sentences, files are written, and nothing outlives it."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest
import typer
from typer.testing import CliRunner

from labserver.bench.command import bench
from labserver.errors import LabError

BENCH = [sys.executable, "-m", "labserver", "bench"]
LEAVES_A_SERVER = """
import os, signal
from labserver.bench.place import place
with place() as here:
    print(here.serve("websockets_broadcast").pid, here.folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*BENCH, *arguments], capture_output=True, text=True, timeout=90, check=False)


def test_a_wrong_argument_exits_with_2_and_a_sentence() -> None:
    done = run("no-such-row")
    assert done.returncode == 2
    assert done.stderr.startswith("labserver: There is no row 'no-such-row'; the rows are fanout, saturated")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--json", "no/such/folder/x.json"], "--json can't be written to no/such/folder/x.json: No such file"),
        (["--plot", "."], "--plot can't be written to .: Is a directory"),
    ],
)
def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(arguments: list[str], said: str) -> None:
    app = typer.Typer()
    app.command()(bench)
    error = CliRunner().invoke(app, arguments).exception
    assert isinstance(error, LabError)
    assert said in str(error)


def test_it_prints_tables_and_writes_json_and_a_plot(tmp_path: Path) -> None:
    found, plot = tmp_path / "bench.json", tmp_path / "bench.svg"
    done = run("saturated", "--quick", "--json", str(found), "--plot", str(plot))
    assert done.returncode == 0, done.stderr
    for said in ("Measuring saturated", "Costs", "Goals", "<= 0.25", "This was --quick"):
        assert said in done.stdout
    said = json.loads(found.read_text())
    assert said["quick"] is True
    assert said["rounds"] == 1
    assert [row["row"] for row in said["rows"]] == ["saturated", "order"]
    assert {figure["label"]: figure["value"] for figure in said["rows"][1]["figures"]} == {
        "lost": 0,
        "doubled": 0,
        "disordered": 0,
    }
    assert ElementTree.parse(plot).getroot().tag.endswith("svg")


def test_sigterm_ends_it_in_order() -> None:
    with subprocess.Popen([*BENCH, "fanout"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "Measuring fanout\n"
        children = wait_for_children(process.pid)
        error = stopped(process)
    assert process.returncode == 130
    assert "Stopped; every server is ended, nothing is left." in error
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


def stopped(process: "subprocess.Popen[str]") -> str:
    """Ask it to end, again where Python lost the interrupt in a destructor, and return what it said."""
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=20)[1]
    process.kill()
    raise AssertionError(f"it does not end: {process.communicate()[1]}")


def wait_for_children(pid: int) -> list[psutil.Process]:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        children = psutil.Process(pid).children(recursive=True)
        if any("labserver.bench.host" in " ".join(child.cmdline()) for child in children):
            return children
        time.sleep(0.02)
    raise AssertionError("it starts no server")


@pytest.mark.skipif(os.name == "nt", reason="nothing there survives a kill as it does on POSIX")
def test_no_server_and_no_folder_outlives_one_that_is_killed() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVES_A_SERVER], capture_output=True, text=True, timeout=60)
    pid, folder = done.stdout.split()
    end = time.monotonic() + 20
    while (psutil.pid_exists(int(pid)) or Path(folder).exists()) and time.monotonic() < end:
        time.sleep(0.02)
    assert not psutil.pid_exists(int(pid))
    assert not Path(folder).exists()
