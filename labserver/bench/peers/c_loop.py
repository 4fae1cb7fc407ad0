"""The bound: a loop in C with one `send` per reader (`fanout.c`). What a server in Python can at best come near to."""

import os
import shutil
import socket

from labserver.bench.peers import Options, Peer, Serve

__all__ = ["PEER", "build"]


def _missing() -> str:
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        return "there is no C compiler: install one (Debian, Ubuntu: apt install gcc libc6-dev)"
    return "" if os.path.isdir("/proc/self") else "its loop is written for Linux (epoll)"


PEER = Peer("C, one send() per socket", _missing)


def build(options: Options) -> Serve:
    """Serve by the program at `options["program"]`, which takes the place of this process."""
    program = str(options["program"])

    def serve(listener: socket.socket) -> None:
        listener.set_inheritable(True)
        os.execv(program, [program, str(listener.fileno())])

    return serve
