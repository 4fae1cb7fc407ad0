"""What a server tells Prometheus: read from the channels when it asks, so nothing is counted twice or on the way."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from .channels import Channels

__all__ = ["CONTENT_TYPE_LATEST", "exposition"]

COUNTERS = {
    "published": "Messages published by this process",
    "replayed": "Messages sent again from history",
    "resumed": "Subscribers that came back with a cursor",
    "gaps": "Times a subscriber was told that messages may be missing",
    "cut": "Readers cut off because they were too slow",
    "dropped": "Bursts dropped for readers who were too slow",
    "drained": "Goodbyes said to streams before a restart",
}


class _Channels(Collector):
    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    def collect(self) -> Iterator[Metric]:
        channels = self._channels
        yield GaugeMetricFamily("realtime_connections", "Subscribed connections", len(channels.open))
        yield GaugeMetricFamily("realtime_channels", "Channels with a subscriber here", len(channels.hub.channels()))
        waiting = sum(each.outbox.size for each in channels.open if each.outbox is not None)
        yield GaugeMetricFamily("realtime_outbox_bytes", "Bytes that wait for readers who are behind", waiting)
        yield GaugeMetricFamily(
            "realtime_engine_ready", "Whether the engine stores and delivers", channels.engine.ready
        )
        yield GaugeMetricFamily("realtime_engine_lag_seconds", "From storing to delivery", channels.engine.lag)
        yield CounterMetricFamily("realtime_delivered", "Messages handed to connections", channels.hub.delivered)
        for name, text in COUNTERS.items():
            yield CounterMetricFamily(f"realtime_{name}", text, getattr(channels.counts, name))


def exposition(channels: Channels) -> bytes:
    """Return the metrics of one process in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(_Channels(channels))
    return generate_latest(registry)
