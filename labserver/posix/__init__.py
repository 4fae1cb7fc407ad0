"""What only POSIX systems have: process trees, limits, namespaces, Landlock, forks; the supervisor of untrusted code.

This is the one room that may use `resource`, `pwd`, `os.fork`, `os.killpg` or `SIGKILL`; its modules import what
Windows lacks inside their functions, so that they are importable everywhere (and `available()` says no on Windows).
"""

from labserver.posix.forks import Forked, ForkServer
from labserver.posix.keeper import keeper_command, start_keeper
from labserver.posix.landlock import confine, landlock_abi
from labserver.posix.limits import (
    Limits,
    adopt_orphans,
    allow_open_files,
    apply_limits,
    become,
    die_with_parent,
    is_root,
    own_namespaces,
    own_shared_memory,
    owner,
    run_before_others,
)
from labserver.posix.processes import (
    Process,
    available,
    kill,
    kill_group,
    kill_tree,
    processes,
    reap,
    tree,
)
from labserver.posix.sockets import unsent
from labserver.posix.supervisor import Ended, Program, remove

__all__ = [
    "Ended",
    "ForkServer",
    "Forked",
    "Limits",
    "Process",
    "Program",
    "adopt_orphans",
    "allow_open_files",
    "apply_limits",
    "available",
    "become",
    "confine",
    "die_with_parent",
    "is_root",
    "keeper_command",
    "kill",
    "kill_group",
    "kill_tree",
    "landlock_abi",
    "own_namespaces",
    "own_shared_memory",
    "owner",
    "processes",
    "reap",
    "remove",
    "run_before_others",
    "start_keeper",
    "tree",
    "unsent",
]
