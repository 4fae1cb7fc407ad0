"""Loaded by Python at its start when this folder is on PYTHONPATH: one pattern's module is read from its twin's file.

`LABSERVER_TEST_SWAP=websocket_basics=disconnect_skips_cleanup` makes `labserver.patterns.websocket_basics` that twin,
for imports and for the fresh copies that the lab's app is made of, in kernels and in child processes alike.
"""

import os
import sys
from importlib.util import spec_from_file_location


class Swap:
    """A finder that answers for one module alone."""

    def __init__(self, pattern, twin):
        self.name, self.twin = f"labserver.patterns.{pattern}", twin

    def find_spec(self, name, path=None, target=None):
        """Return the twin's file as the place of the pattern."""
        if name != self.name or path is None:
            return None
        folder = os.path.join(os.path.dirname(next(iter(path))), "broken")
        return spec_from_file_location(name, os.path.join(folder, f"{self.twin}.py"))


if os.environ.get("LABSERVER_TEST_SWAP"):
    sys.meta_path.insert(0, Swap(*os.environ["LABSERVER_TEST_SWAP"].split("=")))
