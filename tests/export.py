"""Write constraints.txt from uv.lock, and the pins of environment.yml from constraints.txt.

Run by `make upgrade`; `test_environment.py` fails when either file is not what this would write.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Exported from uv.lock by `make upgrade`; not edited by hand.\n"


def uv() -> str:
    """Return the uv to run: what make found, PATH's, or the one that make fetched; "" when there is none."""
    places = (os.environ.get("UV"), shutil.which("uv"), ROOT / ".uv/bin/uv", ROOT / ".uv/Scripts/uv.exe")
    return next((str(place) for place in places if place and Path(place).exists()), "")


def constraints() -> str:
    """Return the text of constraints.txt: every locked package with its marker, without hashes or addresses."""
    command = [uv(), "export", "--frozen", "--all-extras", "--no-emit-project", "--no-hashes", "--no-annotate"]
    command += ["--no-header", "--quiet", "--format", "requirements.txt"]
    return HEADER + subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60).stdout


def environment(locked: str, text: str) -> str:
    """Return environment.yml's `text` with each `name==version` set to the version that `locked` gives.

    Args:
        locked: the text of constraints.txt.
        text: the text of environment.yml.

    Raises:
        KeyError: if the lock holds no such package.
    """
    versions = dict(re.findall(r"^([\w.-]+)==([^\s;]+)", locked, re.MULTILINE))
    return re.sub(r"(?m)^(\s+- )([\w.-]+)==\S+$", lambda m: f"{m[1]}{m[2]}=={versions[m[2]]}", text)


def main() -> None:
    locked = constraints()
    (ROOT / "constraints.txt").write_text(locked, encoding="utf-8")
    file = ROOT / "environment.yml"
    file.write_text(environment(locked, file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
