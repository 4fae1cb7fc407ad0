"""The service is what its OpenAPI says: whatever a client makes of the document, nothing fails and nothing is left."""

from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from labserver.realtime.direct import protocols
from labserver.service.app import create_app
from labserver.settings import Settings
from labserver.stage.databases import database
from labserver.stage.llms.stand import fake_llm
from labserver.stage.server import LiveServer, start

DOCUMENT: dict[str, Any] = create_app().openapi()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT, config=schemathesis.Config())
OPERATIONS = [(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods]
NEVER_FAIL = {"/healthz", "/metrics"}
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
DEADLINE = 20.0
EXAMPLES = 12


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    root: Path = tmp_path_factory.mktemp("files")
    (root / "prices.csv").write_text("item,price\n")
    with database(300) as shop, fake_llm(tokens=5) as llm:
        chosen = Settings(
            database_url=shop.url,
            files_root=root,
            llm_url=llm.url,
            message_max_bytes=2000,
            work_step=0.001,
            chat_grace=0.5,
            write_deadline=2,
            sse_keepalive=1,
        )
        with start(create_app(open_login=True), name="openapi", settings=chosen, **protocols(chosen)) as server:
            yield server


@pytest.fixture(scope="module")
def known(live: LiveServer) -> dict[str, Any]:
    """What exists: a token, and for each path parameter a value that leads somewhere."""
    token = requests.post(f"{live.url}/auth/login", json={"user": "ana"}, timeout=DEADLINE).json()["token"]
    bearer = {"Authorization": f"Bearer {token}"}
    job = requests.post(f"{live.url}/jobs", json={"steps": 2}, headers=bearer, timeout=DEADLINE).json()["id"]
    return {"bearer": bearer, "channel": "public.fuzz", "path": "prices.csv", "id": job}


def cases(method: str, path: str, known: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return requests that fit the document, that lead somewhere, and that do not fit."""
    operation = SCHEMA[path][method]
    there = {name: value for name, value in known.items() if f"{{{name}}}" in path}
    ways = [operation.as_strategy(GenerationMode.POSITIVE)]
    if there:
        ways.append(operation.as_strategy(GenerationMode.POSITIVE, path_parameters=there))
    if DOCUMENT["paths"][path][method].get("parameters") or DOCUMENT["paths"][path][method].get("requestBody"):
        ways.append(operation.as_strategy(GenerationMode.NEGATIVE))
    return st.one_of(ways)


def ask(live: LiveServer, case: Any, headers: dict[str, str]) -> requests.Response:
    """Send a case; of events read no more than the first."""
    sent = case.as_transport_kwargs(base_url=live.url)
    sent["headers"] = {**(sent.get("headers") or {}), **headers}
    with requests.Session() as session:
        response = session.request(**sent, stream=True, timeout=DEADLINE, allow_redirects=False)
        if response.headers.get("Content-Type", "").startswith("text/event-stream"):
            assert next(response.iter_content(None), b"")
            response.close()
        else:
            assert response.content is not None
        return response


@pytest.mark.parametrize("who", ["anybody", "ana"])
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_answers_are_as_documented(live: LiveServer, known: dict[str, Any], method: str, path: str, who: str) -> None:
    documented = DOCUMENT["paths"][path][method]["responses"]

    @settings(max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=HealthCheck)
    @given(case=cases(method, path, known))
    def fuzz(case: Any) -> None:
        response = ask(live, case, known["bearer"] if who == "ana" else {})
        said = response.status_code, response.headers.get("Content-Type", "").split(";")[0]
        assert said[0] < 500, f"{said}: {case.as_curl_command()}"
        assert str(said[0]) in documented, f"{said}: {case.as_curl_command()}"
        if said[1] == "text/event-stream":
            assert said[1] in documented["200"]["content"]
        else:
            case.validate_response(response, checks=CHECKS)

    fuzz()
    assert live.errors() == []


def test_nothing_is_left(live: LiveServer) -> None:
    channels, until = live.app.state.channels, monotonic() + DEADLINE
    while (channels.open or channels.hub.channels()) and monotonic() < until:
        sleep(0.01)
    assert not channels.open
    assert not channels.hub.channels()
    assert live.errors() == []


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_endpoint_has_a_summary_an_example_and_its_errors(method: str, path: str) -> None:
    operation = DOCUMENT["paths"][path][method]
    assert operation["summary"]
    assert operation["description"]
    assert any(_examples(operation)), "no example of a request or a response"
    assert path in NEVER_FAIL or any(status >= "400" for status in operation["responses"])
    for status, response in operation["responses"].items():
        assert response["description"], status


def _examples(value: Any) -> Iterator[Any]:
    """Yield what stands as an example anywhere inside, references followed."""
    if isinstance(value, list):
        for each in value:
            yield from _examples(each)
    elif isinstance(value, dict):
        if "$ref" in value:
            yield from _examples(DOCUMENT["components"]["schemas"][value["$ref"].rpartition("/")[2]])
        for name, each in value.items():
            if name in ("example", "examples"):
                yield each
            else:
                yield from _examples(each)


def test_every_endpoint_of_the_service_is_documented() -> None:
    wanted = {
        ("post", "/auth/login"),
        ("post", "/auth/ticket"),
        ("post", "/channels/{channel}/messages"),
        ("get", "/channels/{channel}/events"),
        ("get", "/channels/{channel}/history"),
        ("get", "/channels/{channel}/presence"),
        ("get", "/stream/items"),
        ("get", "/download/{path}"),
        ("head", "/download/{path}"),
        ("post", "/chat"),
        ("get", "/chat/{id}/events"),
        ("post", "/jobs"),
        ("get", "/jobs/{id}/events"),
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/metrics"),
    }
    assert wanted == set(OPERATIONS)
