"""A child that ends with its owner: it holds the read end of a pipe that the owner's death closes, however it dies.

A thread watches, so that a frozen event loop cannot keep the child alive; a pipe works on every platform.
"""

import os
import sys
from threading import Thread

__all__ = ["end_with_owner"]


def end_with_owner() -> None:
    """End this process as soon as its standard input ends. The owner passes `stdin=PIPE` and never writes."""
    Thread(target=_watch, name="lifeline", daemon=True).start()


def _watch() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)
