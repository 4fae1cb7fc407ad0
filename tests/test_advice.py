"""The page of common advice: each row points to a claim that its notebook makes, and to a test that exists."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "ADVICE.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| common advice")]
LINK = re.compile(r"\[([^\]]+)\]\(([^)#]+)(?:#([^)]+))?\)")


def claims_under(path: Path, anchor: str) -> set[str]:
    """Return the texts that a notebook claims below one heading."""
    found: set[str] = set()
    here = ""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            for heading in re.findall(r"^#+ (.+)$", source, flags=re.M):
                here = heading.replace("`", "").replace(" ", "-")
        elif here == anchor:
            calls = [node for node in ast.walk(ast.parse(source, mode="exec")) if isinstance(node, ast.Call)]
            named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "claim"]
            found |= {str(call.args[0].value) for call in named if isinstance(call.args[0], ast.Constant)}
    return found


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_a_row_names_what_proves_it(row: str) -> None:
    *_, see, tested = [column.strip() for column in row.strip("|").split(" | ")]
    assert LINK.search(see) or LINK.search(tested), "nothing proves it"
    if link := LINK.search(see):
        assert link[1] in claims_under(ROOT / link[2], link[3] or "")
    if link := LINK.search(tested):
        assert re.search(rf"^\s*(?:async )?def {link[1]}\(", (ROOT / link[2]).read_text(encoding="utf-8"), flags=re.M)


def test_there_is_advice_for_every_notebook_with_twins() -> None:
    numbers = set(re.findall(r"^## (\d\d) ", PAGE, flags=re.M))
    assert numbers == {path.name[:2] for path in ROOT.glob("notebooks/*.ipynb")} - {"00"}
