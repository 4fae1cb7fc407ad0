"""POSIX-only names live in one module, and without them everything is still importable; processes end as a tree."""

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import labserver
from labserver import posix
from labserver.posix.processes import _from_ps as from_ps

ROOM = Path(labserver.__file__).parent
MODULES = ["fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"]
NAMES = {
    "os": {"fork", "forkpty", "getpgid", "getuid", "getgid", "killpg", "nice", "sched_setscheduler", "setsid", "wait"}
    | {"waitpid", "mkfifo", "geteuid", "setuid", "WNOHANG"},
    "signal": {"SIGKILL", "SIGSTOP", "SIGCONT", "SIGCHLD", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2", "pause", "alarm"},
}

IMPORT_ALL = f"""
import builtins, importlib, os, pkgutil, signal, sys
real, blocked = builtins.__import__, {MODULES!r}
lacking = {{"os": {sorted(NAMES["os"])!r}, "signal": {sorted(NAMES["signal"])!r}}}

def refuse(name, globals=None, locals=None, fromlist=(), level=0):
    # only ours: how other packages treat Windows is their matter
    if (globals or {{}}).get("__name__", "").startswith("labserver") and level == 0 and name.split(".")[0] in blocked:
        raise ImportError(f"No module named {{name!r}} (blocked), imported by {{globals['__name__']}}")
    return real(name, globals, locals, fromlist, level)

builtins.__import__ = refuse
import labserver
names = [m.name for m in pkgutil.walk_packages(labserver.__path__, "labserver.") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def sources() -> list[Path]:
    return [path for path in sorted(ROOM.rglob("*.py")) if path.parent != ROOM / "posix"]


def run(source: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=240)


def test_every_module_can_be_imported_without_what_only_posix_has() -> None:
    done = run(IMPORT_ALL)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= 20


def test_the_block_does_block() -> None:
    done = run(IMPORT_ALL.replace("import labserver\n", "import labserver\nexec('import resource', vars(labserver))\n"))
    assert "blocked" in done.stderr


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOM)))
def test_posix_only_names_are_used_in_one_module_alone(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.attr not in NAMES.get(node.value.id, ()), f"{path.name}:{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Import):
            assert not {alias.name for alias in node.names} & set(MODULES), f"{path.name}:{node.lineno}"
        if isinstance(node, ast.ImportFrom):
            assert node.module not in MODULES, f"{path.name}:{node.lineno}"
            assert not {alias.name for alias in node.names} & NAMES.get(node.module or "", set())


def sleeper() -> "subprocess.Popen[bytes]":
    """A process with a child in a session of its own, which has a child."""
    inner = "import os, time\nos.setsid()\nos.fork()\ntime.sleep(60)"
    outer = f"import os, subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {inner!r}])\ntime.sleep(60)"
    return subprocess.Popen([sys.executable, "-c", outer], start_new_session=True)


def wait_for(condition: "object", timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def test_a_tree_is_found_and_killed_across_sessions() -> None:
    process = sleeper()
    try:
        wait_for(lambda: len(posix.tree(process.pid)) == 2)
        kin = [member.pid for member in posix.tree(process.pid)]
        assert posix.kill_tree(process.pid) == 2
        wait_for(lambda: not any(member.pid in kin and member.state != "Z" for member in posix.processes()))
        assert process.poll() is None  # the root itself is its owner's matter
    finally:
        process.kill()
        process.wait()


def test_a_tree_without_members_is_done_at_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert posix.kill_tree(process.pid) == 0
    process.communicate()


def test_the_table_of_processes_holds_this_one() -> None:
    (me,) = [process for process in posix.processes() if process.pid == os.getpid()]
    assert me.parent == os.getppid()
    assert me.group == os.getpgid(0)
    assert me.threads >= 1
    assert me.resident > 1 << 20


def test_the_table_is_the_same_from_ps() -> None:
    (me,) = [process for process in from_ps() if process.pid == os.getpid()]
    assert (me.parent, me.group) == (os.getppid(), os.getpgid(0))


def test_limits_bind_and_a_lower_one_is_kept() -> None:
    source = """
import resource
from labserver import posix
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))
posix.apply_limits(posix.Limits(open_files=1024, file_bytes=1 << 20, cpu_seconds=7, memory_bytes=1 << 28))
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0], resource.getrlimit(resource.RLIMIT_FSIZE)[0],
      resource.getrlimit(resource.RLIMIT_CPU)[0], resource.getrlimit(resource.RLIMIT_DATA)[0] >> 28,
      resource.getrlimit(resource.RLIMIT_CORE)[0])
"""
    assert run(source).stdout.split() == ["200", str(1 << 20), "7", "2", "0"]


def test_an_orphan_is_adopted_and_reaped() -> None:
    source = """
import os, time
from labserver import posix
assert posix.adopt_orphans()
if os.fork() == 0:
    if os.fork() == 0:
        time.sleep(60)
    os._exit(3)
assert list(posix.reap(block=True).values()) == [3]
(orphan,) = posix.tree(os.getpid())
assert posix.kill_tree(os.getpid()) == 1
assert posix.tree(os.getpid()) == []
print("done")
"""
    assert run(source).stdout == "done\n", run(source).stderr


def test_without_a_namespace_of_its_own_a_child_is_still_started() -> None:
    source = """
import os
from labserver import posix
own = posix.own_namespaces()
if os.fork() == 0:
    print((os.getpid() == 1) == own, flush=True)
    os._exit(0)
os.wait()
"""
    assert run(source).stdout == "True\n"
