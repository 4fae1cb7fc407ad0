"""What the files of wrong answers declare, and the headings that misconceptions name: read, never run."""

import ast
import json
from pathlib import Path

from labserver.school.catalogue import ROOT

__all__ = ["WRONG", "declared", "headings"]

WRONG = ROOT / "solutions" / "wrong"


def declared(path: Path, constant: str) -> frozenset[str] | None:
    """Return the names in a file's `FAILS` or `HIDDEN`; None where it has none."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == constant:
            value = node.value
            empty = isinstance(value, ast.Call) and ast.unparse(value) in ("set()", "frozenset()")
            return frozenset() if empty else frozenset(ast.literal_eval(value))
    return None


def headings(notebook: str) -> set[str]:
    """Return the anchors of a notebook's headings; the path is taken from the root."""
    cells = json.loads((ROOT / notebook).read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    lines = (line.lstrip("#").strip().replace("`", "") for line in text.splitlines() if line.startswith("#"))
    return {line.replace(" ", "-") for line in lines}
