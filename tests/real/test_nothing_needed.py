"""Nothing is needed but Python: no real part and no network; and a key that nobody asked for changes nothing."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI, Request

from labserver.school.catalogue import ROOT
from labserver.stage import start

sys.path.insert(0, str(ROOT / "tests"))
from bare import nothing_but_python, without_network

NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))

IMPORTS = """
import importlib, pkgutil, sys, labserver
from labserver.stage.parts import find
asked = []
sys.addaudithook(lambda event, args: asked.append(args) if event in ("socket.connect", "socket.getaddrinfo") else None)
for module in pkgutil.walk_packages(labserver.__path__, "labserver."):
    if ".checks" not in module.name and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert [name for name in ("nginx", "broker", "nats", "chromium") if find(name).available] == []
assert find("llm").available
"""

ASK = """
import httpx
from labserver.stage import start
live = start()
answer = httpx.post(live.url + "/chat", json={"prompt": "hello"}, timeout=60)
live.stop()
print(answer.status_code, "event: done" in answer.text)
"""


def run(code: str, folder: Path, *before: str, **variables: str) -> str:
    """Run code where nothing is but Python; return what it printed."""
    environment = nothing_but_python(folder) | variables
    command = [*before, sys.executable, "-c", code]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def imports_of(path: Path) -> list[str]:
    """Return the import statements of a notebook, each once."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    return list(dict.fromkeys(ast.unparse(node) for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)))


@pytest.fixture
def anthropic() -> Iterator[tuple[str, list[str]]]:
    """What stands for Anthropic's address, and the keys of the requests that came to it."""
    app, keys = FastAPI(), []

    @app.post("/v1/messages")
    async def refuse(request: Request) -> None:
        keys.append(request.headers.get("x-api-key", ""))

    with start(app, name="anthropic") as live:
        yield live.url, keys


def test_everything_imports_and_every_notebook_finds_its_imports(tmp_path: Path) -> None:
    imports = dict.fromkeys(line for path in NOTEBOOKS for line in imports_of(path))
    run("\n".join([IMPORTS, *imports, "assert asked == [], asked"]), tmp_path)


def test_a_key_alone_changes_nothing(anthropic: tuple[str, list[str]], tmp_path: Path) -> None:
    url, keys = anthropic
    assert run(ASK, tmp_path, ANTHROPIC_BASE_URL=url) == "200 True\n"
    assert keys == []


def test_chosen_by_name_anthropic_is_asked_with_the_key(anthropic: tuple[str, list[str]], tmp_path: Path) -> None:
    """So the test above can fail."""
    url, keys = anthropic
    run(ASK, tmp_path, ANTHROPIC_BASE_URL=url, LABSERVER_LLM="anthropic")
    assert set(keys) == {"x"}


def test_without_a_way_out_the_lab_answers_all_the_same(tmp_path: Path) -> None:
    if not (way := without_network()):
        pytest.skip("this user may not make a network with no way out")
    assert run(ASK, tmp_path, *way) == "200 True\n"
