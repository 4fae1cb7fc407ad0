"""Notebook 09 with another LLM behind it: what it claims may not hang on the words, counts or pace of the lab's own.

Anthropic is chosen, with a key, and its part is played by an endpoint that answers as a model does: a pause, then
pieces of some words each. Outputs are not compared, and every claim has to hold.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from labserver.school.notebooks import read
from labserver.settings import get_settings
from labserver.stage import LiveServer, start
from labserver.stage.llms.endpoint import Endpoint, Fake
from labserver.stage.llms.ledger import Ledger
from labserver.stage.llms.wire import Ask
from labserver.stage.llms.words import Voice

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "09_llm_tokens.ipynb"
SENTENCE = ("The", " rain that falls", " on the hills", " finds its way", ",", " slowly at first", ", to the valley.")


class Model(Fake):
    """Says `sentences` sentences in pieces of several words, with a blank line between two where `blank` is set."""

    def __init__(self, voice: Voice, sentences: int, *, blank: bool) -> None:
        super().__init__(voice)
        self._sentences, self._gap = sentences, "\n\n" if blank else " "

    def _say(self, ask: Ask) -> tuple[Voice, list[str], str]:
        count = self._sentences + Random(ask.prompt).randrange(3)
        said = [
            f"{self._gap if at and not part else ''}{piece}"
            for at in range(count)
            for part, piece in enumerate(SENTENCE)
        ]
        return self.voice, said, "end_turn"


MODELS = {
    "quick, in one paragraph": Model(Voice(delay=0.004, first=0.05), 10, blank=False),
    "slow, in paragraphs": Model(Voice(delay=0.02, first=0.4), 6, blank=True),
}


@pytest.fixture(params=MODELS)
def anthropic(request: pytest.FixtureRequest) -> Iterator[tuple[LiveServer, Ledger]]:
    endpoint = Endpoint(MODELS[request.param])
    with start(endpoint.app(), name="not-anthropic", timeout_keep_alive=60) as live:
        yield live, endpoint.ledger


def run(notebook: NotebookNode, folder: Path, environment: dict[str, str]) -> list[str]:
    """Run all cells, also behind one that fails; return what failed, by cell."""
    client = NotebookClient(
        notebook,
        timeout=60,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        allow_errors=True,
        extra_arguments=["--HistoryManager.enabled=False"],
    )
    client.execute(env=environment)
    return [
        f"{cell.id}: {output.ename}: {output.evalue}"
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.output_type == "error"
    ]


@pytest.mark.timeout(300)
def test_no_cell_fails(anthropic: tuple[LiveServer, Ledger], tmp_path: Path) -> None:
    live, ledger = anthropic
    chosen = {
        "LABSERVER_LLM": "anthropic",
        "ANTHROPIC_API_KEY": "a key",
        "ANTHROPIC_BASE_URL": live.url,
        "LABSERVER_HOME": str(tmp_path),
    }
    assert run(read(NOTEBOOK), NOTEBOOK.parent, os.environ | chosen) == []
    assert len(ledger.requests()) > 10  # it was asked
    assert {each.model for each in ledger.requests()} == {get_settings().model}
