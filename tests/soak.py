"""The long repetitions, outside CI: every notebook against its stored outputs, twenty times, ten of them under load.

Before them it measures the times that the stage promises (speed.py): median of 5 first calls, of 20 starts and stops.

    python tests/soak.py PYTHON...          (`make soak` names the environments of 3.11 and 3.13)

Each run is appended to .soak/results.jsonl as it ends, so a soak that was stopped goes on where it was. A run counts
for the sources it ran on: a changed notebook or package starts anew. SOAK_RUNS=4 makes it shorter (default 20),
SOAK_RUNS=0 measures the promised times only; on a busy machine they say little, so the load stands beside them.
"""

import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / ".soak" / "results.jsonl"
RUNS = int(os.environ.get("SOAK_RUNS", "20"))  # of each notebook on each Python; every second one is under load
DEADLINE = 300.0  # seconds for one notebook: five times what it may take on an idle machine
PROMISES = {  # seconds that the median may take on an idle machine
    "first": ("first start, and imports", 1.5),
    "start": ("start", 0.3),
    "stop": ("stop, two streams open", 0.3),
}
FIRSTS, REPEATS = 5, 20
TAIL = 2000  # characters kept of what a failed run said
BURN = (
    "import threading, sys, os\nthreading.Thread(target=lambda: (sys.stdin.read(), os._exit(0))).start()\nwhile 1: pass"
)
ASK = (
    "import json, platform, importlib.metadata as m; print(json.dumps({'python': platform.python_version()} | "
    "{n: m.version(n) for n in ('fastapi', 'uvicorn', 'websockets', 'httpx', 'ipykernel', 'nbval')}))"
)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one notebook: what `results.jsonl` has a line of.

    Attributes:
        sources: hash of the notebook, the package and the lock it ran on.
        loaded: whether every core was kept busy beside it.
        seconds: duration of the whole pytest process.
        result: "passed", "failed" or "timed out".
    """

    notebook: str
    sources: str
    number: int
    loaded: bool
    result: str
    seconds: float
    began: str
    machine: dict[str, str | int]
    versions: dict[str, str]
    said: str = ""


@dataclass(frozen=True, slots=True)
class Timing:
    """One promised time as measured on one Python: a line of `results.jsonl` too.

    Attributes:
        timing: the key in `PROMISES`.
        sources: hash of the package and the lock.
        promised: seconds that the median may take.
        seconds: each measurement.
        load: of the machine just before: percent of all cores busy, and the average of the last minute.
    """

    timing: str
    sources: str
    promised: float
    seconds: list[float]
    load: dict[str, float]
    began: str
    machine: dict[str, str | int]
    versions: dict[str, str]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def kept(self) -> bool:
        return self.median <= self.promised


def machine() -> dict[str, str | int]:
    memory = round(psutil.virtual_memory().total / 2**30)
    return {"system": platform.platform(), "cores": os.cpu_count() or 1, "memory_gib": memory}


def load_now() -> dict[str, float]:
    return {"busy_percent": psutil.cpu_percent(1.0), "average_1_min": round(psutil.getloadavg()[0], 2)}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def sources(*notebooks: Path) -> str:
    digest = hashlib.sha256()
    for path in [*notebooks, ROOT / "uv.lock", *sorted((ROOT / "labserver").rglob("*.py"))]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def load(wanted: bool) -> Iterator[None]:
    """Keep every core busy; each process ends when its input does, so also when this one is killed."""
    count = (os.cpu_count() or 1) if wanted else 0
    burners = [subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE) for _ in range(count)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.communicate()


@contextmanager
def world() -> Iterator[dict[str, str]]:
    """Give an environment whose folders are private to one run."""
    with tempfile.TemporaryDirectory(prefix="labserver-soak-") as folder:
        names = ("TMPDIR", "LABSERVER_HOME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR")
        private = {name: os.path.join(folder, name.lower()) for name in names}
        for path in private.values():
            os.mkdir(path)
        yield os.environ | private | {"LABSERVER_LLM": "fake"}


def pytest(python: str, notebook: Path, environment: dict[str, str]) -> tuple[str, str]:
    """Run one notebook; return the result and, when it did not pass, the end of what was said."""
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(notebook)]
    process = psutil.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said, _ = process.communicate(timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        for child in [*process.children(recursive=True), process]:
            child.kill()
        said, _ = process.communicate()
        return "timed out", said[-TAIL:]
    return ("passed", "") if process.returncode == 0 else ("failed", said[-TAIL:])


def done() -> list[Run]:
    """Read what earlier soaks have appended; a line that was cut off is skipped."""
    runs = []
    for line in RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []:
        try:
            runs.append(Run(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return runs


def append(run: Run | Timing) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(run)) + "\n")


def summary(runs: list[Run]) -> Table:
    table = Table(title=f"Soak: {RUNS} runs each", title_justify="left")
    for head in ("notebook", "Python", "passed, idle", "passed, under load", "median s", "slowest s"):
        table.add_column(head)
    for key in sorted({(run.notebook, run.versions["python"]) for run in runs}):
        mine = [run for run in runs if (run.notebook, run.versions["python"]) == key]
        counts = []
        for loaded in (False, True):
            half = [run.result == "passed" for run in mine if run.loaded is loaded]
            counts.append(f"{sum(half)} of {len(half)}")
        seconds = [run.seconds for run in mine]
        table.add_row(Path(key[0]).stem, key[1], *counts, f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}")
    return table


def promises(timings: list[Timing]) -> Table:
    table = Table(title="Promised times, medians", title_justify="left")
    for head in ("time", "Python", "median s", "promise", "", "slowest", "busy"):
        table.add_column(head)
    for one in timings:
        what, python = PROMISES[one.timing][0], one.versions["python"]
        verdict = "✓ kept" if one.kept else "✗ missed"
        measured, slowest, busy = f"{one.median:.3f}", f"{max(one.seconds):.3f}", f"{one.load['busy_percent']:.0f} %"
        table.add_row(what, python, measured, f"{one.promised:.1f}", verdict, slowest, busy)
    return table


def versions_of(python: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(
        subprocess.run([python, "-c", ASK], check=True, capture_output=True, text=True).stdout
    )
    return found


def speed(python: str, *arguments: str) -> dict[str, list[float]]:
    """Measure in a new process; return each time's seconds by its key in `PROMISES`."""
    command = [python, str(ROOT / "tests" / "speed.py"), *arguments]
    with world() as environment:
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else every first call would compile the package
        said = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=DEADLINE
        )
    measured: dict[str, list[float]] = json.loads(said.stdout)
    return measured


def measure(python: str) -> list[Timing]:
    """Measure every promised time on one Python, and append it to the results."""
    began, load_before, versions = now(), load_now(), versions_of(python)
    seconds = speed(python, "streams", str(REPEATS))  # this compiles the modules, so that no first call below does
    seconds["first"] = [speed(python, "first")["first"][0] for _ in range(FIRSTS)]
    timings = [
        Timing(key, sources(), promised, seconds[key], load_before, began, machine(), versions)
        for key, (_, promised) in PROMISES.items()
    ]
    for timing in timings:
        append(timing)
    return timings


def soak(python: str, notebook: Path, console: Console) -> list[Run]:
    """Run what is missing of one notebook's runs on one Python; return all that count."""
    versions = versions_of(python)
    name, print_ = notebook.relative_to(ROOT).as_posix(), sources(notebook)
    runs = [run for run in done() if (run.notebook, run.sources, run.versions) == (name, print_, versions)]
    runs = [run for run in runs if run.number < RUNS]
    for number in sorted(set(range(RUNS)) - {run.number for run in runs}):
        began, start = now(), time.monotonic()
        with load(number % 2 == 1), world() as environment:
            result, said = pytest(python, notebook, environment)
        seconds = round(time.monotonic() - start, 2)
        loaded = number % 2 == 1
        run = Run(
            name,
            print_,
            number,
            loaded,
            result,
            seconds,
            began,
            machine(),
            versions,
            said,
        )
        append(run)
        runs.append(run)
        beside = "under load" if run.loaded else "idle"
        console.print(
            f"{name}  Python {versions['python']}  run {number + 1} of {RUNS}, {beside}: {result}, {seconds} s"
        )
    return runs


def main() -> int:
    console = Console(soft_wrap=True, highlight=False)
    timings = [timing for python in sys.argv[1:] for timing in measure(python)]
    for one in timings:
        console.print(f"{PROMISES[one.timing][0]}  Python {one.versions['python']}  {one.median:.3f} s")
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    runs = [run for python in sys.argv[1:] for notebook in notebooks for run in soak(python, notebook, console)]
    console.print(promises(timings), summary(runs))
    kept = bool(timings) and all(timing.kept for timing in timings)
    passed = RUNS == 0 or (bool(runs) and all(run.result == "passed" for run in runs))
    return 0 if kept and passed else 1


if __name__ == "__main__":
    sys.exit(main())
