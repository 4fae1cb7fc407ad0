"""What a server tells Prometheus: each number follows what happened."""

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families
from realtime.wire import KINDS, Lab, publish, raw, served, until

from labserver.realtime.channels import Channels
from labserver.realtime.limits import Limits
from labserver.realtime.metrics import CONTENT_TYPE_LATEST, exposition

NAMES = {
    "connections": "gauge",
    "channels": "gauge",
    "outbox_bytes": "gauge",
    "engine_ready": "gauge",
    "engine_lag_seconds": "gauge",
    "delivered": "counter",
    "published": "counter",
    "replayed": "counter",
    "resumed": "counter",
    "gaps": "counter",
    "cut": "counter",
    "dropped": "counter",
    "drained": "counter",
}


def numbers(channels: Channels) -> dict[str, float]:
    families = text_string_to_metric_families(exposition(channels).decode())
    return {family.name.removeprefix("realtime_"): family.samples[0].value for family in families}


def test_a_server_that_did_nothing_says_so_in_prometheus_own_format() -> None:
    channels = Channels()
    families = {each.name.removeprefix("realtime_"): each for each in text_string_to_metric_families(text(channels))}
    assert {name: family.type for name, family in families.items()} == NAMES
    assert all(family.documentation for family in families.values())
    assert numbers(channels) == dict.fromkeys(NAMES, 0.0) | {"engine_ready": 1.0}
    assert CONTENT_TYPE_LATEST.startswith("text/plain")


def text(channels: Channels) -> str:
    return exposition(channels).decode()


def test_two_servers_in_one_process_have_numbers_of_their_own() -> None:
    one, other = Channels(), Channels()
    asyncio.run(one.publish("c", 1))
    assert (numbers(one)["published"], numbers(other)["published"]) == (1, 0)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_numbers_follow_what_happens(kind: str) -> None:
    lab = Lab(Limits(history_messages=3))
    with served(lab, kind) as live:
        await publish(live, lab, *({"n": n} for n in range(5)))
        async with (
            raw(live, "/ws/c?after=e-3") as one,
            raw(live, "/sse/c?after=e-1") as two,
            raw(live, "/sse/d") as three,
        ):
            for client in (one, two, three):
                await client.opened()
            await until(lambda: len(lab.channels.open) == 3)
            await publish(live, lab, {"n": 5})
            await publish(live, lab, {"n": 0}, channel="d")
            await publish(live, lab, {"n": 0}, channel="nobody")
            got = numbers(lab.channels)
            assert {name: got[name] for name in ("connections", "channels", "published", "delivered")} == {
                "connections": 3,
                "channels": 2,
                "published": 8,
                "delivered": 3,
            }
            assert {name: got[name] for name in ("resumed", "replayed", "gaps")} == {
                "resumed": 2,
                "replayed": 5,
                "gaps": 1,
            }
            assert (got["cut"], got["dropped"], got["drained"]) == (0, 0, 0)
            live.submit(lab.channels.drain.run(0)).result(10)
            assert numbers(lab.channels)["drained"] == 3
        await until(lab.empty)
        assert (numbers(lab.channels)["connections"], numbers(lab.channels)["channels"]) == (0, 0)
