"""Run the Autobahn test suite itself, as published, against `/ws/echo`, and compare it with `test_conformance.py`.

`python tests/real/published_suite.py` needs Python 2.7 (`PYTHON2=/path/of/python2.7`, or on PATH, or in pyenv) and
PyPI, from which the suite is installed into a temporary folder. Takes two minutes; with `--deflate`, an hour.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from test_conformance import RACES, SERVED, TABLES

from labserver.service.app import create_app
from labserver.settings import Settings
from labserver.stage import start

SUITE = "autobahntestsuite==25.10.1"
LARGEST = 16 << 20  # bytes: of its messages


def python2() -> str:
    """Return a Python 2.7.

    Raises:
        SystemExit: there is none.
    """
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [os.environ.get("PYTHON2"), *map(str, home.glob("versions/2.7*/bin/python2.7")), shutil.which("python2.7")]
    for path in filter(None, found):
        if (
            subprocess.run([path, "-c", "import sys; assert sys.version_info[:2] == (2, 7)"], check=False).returncode
            == 0
        ):
            return path
    raise SystemExit("The suite needs Python 2.7: name one by PYTHON2=/path/of/python2.7.")


def installed(folder: Path) -> list[str]:
    """Install the suite into a folder; return the command that starts it."""
    env = {**os.environ, "PYTHONUSERBASE": str(folder)}
    pip = [
        python2(),
        "-m",
        "pip",
        "install",
        "-q",
        "--user",
        "--disable-pip-version-check",
        "--no-warn-script-location",
    ]
    subprocess.run([*pip, SUITE], env=env, check=True, stderr=subprocess.DEVNULL)  # that Python 2 is over
    return ["env", f"PYTHONUSERBASE={folder}", str(folder / "bin" / "wstest"), "-m", "fuzzingclient", "-s"]


def run(command: list[str], folder: Path, kind: str, cases: list[str], without: list[str]) -> dict[str, str]:
    """Serve one kind of protocol to the suite; return its verdicts by number."""
    options: dict[str, Any] = {**SERVED[kind], "ws_max_size": LARGEST, "ws_per_message_deflate": True}
    out = folder / kind
    with start(create_app(Settings(message_max_bytes=LARGEST)), name="published", process=False, **options) as live:
        spec = {
            "outdir": str(out),
            "servers": [{"agent": kind, "url": f"{live.ws_url}/ws/echo"}],
            "cases": cases,
            "exclude-cases": without,
            "exclude-agent-cases": {},
        }
        (folder / f"{kind}.json").write_text(json.dumps(spec), encoding="utf-8")
        subprocess.run([*command, str(folder / f"{kind}.json")], check=True, stdout=subprocess.DEVNULL)
    answers = json.loads((out / "index.json").read_text(encoding="utf-8"))[kind]
    return {
        number: each["behavior"] if each["behaviorClose"] in ("OK", "INFORMATIONAL") else "FAILED"
        for number, each in answers.items()
    }


def differences(kind: str, found: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Return what the suite says and what the table says, where they differ and no race explains it."""
    pairs = {number: (answer, TABLES[kind].get(number, "OK")) for number, answer in found.items()}
    loose = {"OK", "NON-STRICT"}
    return {
        number: pair
        for number, pair in pairs.items()
        if pair[0] != pair[1] and not (number in RACES and set(pair) <= loose)
    }


def main() -> int:
    cases, without = (["*"], []) if "--deflate" in sys.argv else (["*"], ["12.*", "13.*"])
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        command = installed(folder / "site")
        found = {kind: run(command, folder, kind, cases, without) for kind in TABLES}
    wrong = {kind: differences(kind, verdicts) for kind, verdicts in found.items()}
    for kind, verdicts in found.items():
        others = {number: answer for number, answer in verdicts.items() if answer != "OK"}
        print(f"{kind}: {len(verdicts)} cases, OK but for {others}")
        for number, (suite, table) in wrong[kind].items():
            print(f"  {number}: the suite says {suite}, the table {table}")
    return 1 if any(wrong.values()) else 0


if __name__ == "__main__":
    raise SystemExit(main())
