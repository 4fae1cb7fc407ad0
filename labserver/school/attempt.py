"""Whether the answer in this kernel is still the starter: told from the cells that ran, not from what they defined.

The kernel's own history is off under nbval, and a given cell may define the app that the answer only adds to.
"""

import ast
import json
from contextlib import suppress

from labserver.school.answer import cells_of, same_code
from labserver.school.catalogue import Exercise

__all__ = ["Attempt"]


class Attempt:
    """What the cells that ran say about the answer to one exercise.

    Attributes:
        starter: True when the last cell that counts was an answer cell as shipped. What else was shipped does not
            count, nor does a lone call such as `hint()`.
    """

    def __init__(self, known: Exercise) -> None:
        shipped = json.loads(known.starter.read_text(encoding="utf-8")) if known.starter.exists() else {"cells": []}
        cells = [cell for cell in cells_of(shipped) if cell.kind == "code"]
        self._answers = [cell.source for cell in cells if cell.role == "answer"]
        self._others = [cell.source for cell in cells if cell.role != "answer"]
        self.starter = False

    def ran(self, source: str) -> None:
        """Take note of a cell."""
        if any(same_code(source, shipped) for shipped in self._answers):
            self.starter = True
        elif not _is_call(source) and not any(same_code(source, shipped) for shipped in self._others):
            self.starter = False


def _is_call(source: str) -> bool:
    with suppress(SyntaxError, ValueError):
        body = ast.parse(source).body
        return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) for node in body)
    return False
