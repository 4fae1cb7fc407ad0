"""What FastAPI says about input that it refuses: by itself it repeats it, and fails where JSON has no word for it."""

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from labserver.service.app import create_app
from labserver.stage import start

HEADERS = {"Content-Type": "application/json"}
UNSPEAKABLE = [b'{"steps": NaN}', b'{"steps": 1e999}', b'{"steps": "\\ud800"}']


class Order(BaseModel):
    steps: int


def order(app: FastAPI) -> FastAPI:
    @app.post("/orders")
    async def take(order: Order) -> Order:
        return order

    return app


@pytest.mark.parametrize("body", UNSPEAKABLE)
def test_fastapis_own_422_repeats_the_input_and_is_a_500_for_what_json_cannot_say(body: bytes) -> None:
    with start(order(FastAPI()), name="own 422") as live:
        told = httpx.post(f"{live.url}/orders", content=b'{"steps": "the password"}', headers=HEADERS)
        assert (told.status_code, told.json()["detail"][0]["input"]) == (422, "the password")
        assert httpx.post(f"{live.url}/orders", content=body, headers=HEADERS).status_code == 500


@pytest.mark.parametrize("body", UNSPEAKABLE)
def test_the_services_422_says_what_is_wrong_and_repeats_nothing(body: bytes) -> None:
    with start(order(create_app()), name="our 422") as live:
        for content in (b'{"steps": "the password"}', body):
            told = httpx.post(f"{live.url}/orders", content=content, headers=HEADERS)
            assert told.status_code == 422
            assert told.json()["detail"][0].keys() == {"type", "loc", "msg"}
            assert "password" not in told.text
        assert live.errors() == []


@pytest.mark.parametrize("path", ["/jobs", "/broken/state_in_the_connection/jobs", "/login", "/broken/no_auth/login"])
def test_so_do_the_patterns_and_the_twins(path: str) -> None:
    with start(name="patterns 422") as live:
        for value in (b"NaN", b'"\\ud800"'):
            told = httpx.post(
                f"{live.url}{path}", content=b'{"steps": %b, "user": %b}' % (value, value), headers=HEADERS
            )
            assert told.status_code == 422
        assert live.errors() == []
