"""The folder `realtime`, copied into somebody's app as its page says, where `labserver` can't be imported."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.sync.client import connect

import labserver.realtime

FOLDER = Path(labserver.realtime.__file__).parent
BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "labserver":
            raise ImportError("labserver is not here")
sys.meta_path.insert(0, Blocked())
"""
DEADLINE = 30.0  # seconds for anything to come


def app_of_the_page() -> str:
    blocks = re.findall(r"```python\n(.*?)```", (FOLDER / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 1
    return str(blocks[0])


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the page's app, run as somebody would who copied the folder."""
    home = tmp_path_factory.mktemp("yourapp")
    shutil.copytree(FOLDER, home / "realtime", ignore=shutil.ignore_patterns("__pycache__"))
    source = BLOCKED + app_of_the_page().replace("uvicorn.run(app, ", "uvicorn.run(app, port=0, ")
    (home / "main.py").write_text(source, encoding="utf-8")
    with subprocess.Popen([sys.executable, "main.py"], cwd=home, stderr=subprocess.PIPE, text=True) as process:
        yield said_address(process)
        process.terminate()
        process.communicate(timeout=DEADLINE)


def said_address(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if found := re.search(r"running on (http://[\d.:]+)", line):
            return found[1]
    raise AssertionError("".join(said))


def first_events(url: str, channel: str, number: int, **headers: str) -> list[str]:
    """Return the first `number` blocks of an event stream."""
    with httpx.stream("GET", f"{url}/events/{channel}", headers=headers, timeout=DEADLINE) as answer:
        text = ""
        for piece in answer.iter_text():
            text += piece
            if text.count("\n\n") >= number:
                return text.split("\n\n")[:number]
    raise AssertionError(text)


def test_the_copy_publishes_and_delivers(url: str) -> None:
    with connect(url.replace("http", "ws") + "/ws/tea") as client:
        opened = json.loads(client.recv(DEADLINE))
        id = httpx.post(f"{url}/publish/tea", json={"n": 1}).raise_for_status().json()["id"]
        assert opened["type"] == "start"
        assert json.loads(client.recv(DEADLINE)) == {"id": id, "channel": "tea", "event": "message", "data": {"n": 1}}


def test_the_copy_resumes_and_misses_nothing(url: str) -> None:
    ids = [httpx.post(f"{url}/publish/news", json=number).json()["id"] for number in range(3)]
    opened, *missed = first_events(url, "news", 3, **{"Last-Event-ID": ids[0]})
    assert "event: resume" in opened
    assert missed == [f"id: {ids[number]}\ndata: {number}" for number in (1, 2)]


def test_the_copy_tells_a_cursor_of_another_life_that_there_is_a_gap(url: str) -> None:
    httpx.post(f"{url}/publish/old", json=1).raise_for_status()
    opened, message = first_events(url, "old", 2, **{"Last-Event-ID": "another-7"})
    assert "event: gap" in opened
    assert message.endswith("data: 1")


def test_a_cursor_that_is_none_is_refused_and_not_a_fault(url: str) -> None:
    answer = httpx.get(f"{url}/events/news", headers={"Last-Event-ID": "nonsense"}, timeout=DEADLINE)
    assert (answer.status_code, "epoch-number" in answer.json()["detail"]) == (400, True)
