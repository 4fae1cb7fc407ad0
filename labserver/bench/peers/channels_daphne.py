"""Django Channels on daphne: an async consumer, a group, the layer that keeps everything in memory."""

import socket
from typing import Any

from labserver.bench.peers import Options, Peer, Serve, packages

__all__ = ["PEER", "build"]

PEER = Peer("Channels on daphne", packages("channels", "daphne"))


def build(options: Options) -> Serve:
    """Serve one group, which the broker-less layer sends to."""
    from daphne.server import Server  # first: it chooses Twisted's reactor
    from django.conf import settings

    settings.configure(CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}})
    from channels.generic.websocket import AsyncWebsocketConsumer
    from channels.routing import ProtocolTypeRouter, URLRouter
    from django.urls import path

    class Reader(AsyncWebsocketConsumer):  # type: ignore[misc]
        async def connect(self) -> None:
            await self.channel_layer.group_add("bench", self.channel_name)
            await self.accept()

        async def disconnect(self, code: int) -> None:
            await self.channel_layer.group_discard("bench", self.channel_name)

        async def bench_message(self, event: dict[str, Any]) -> None:
            await self.send(text_data=event["text"])

    class Publisher(AsyncWebsocketConsumer):  # type: ignore[misc]
        async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
            await self.channel_layer.group_send("bench", {"type": "bench.message", "text": text_data})

    routes = URLRouter([path("ws", Reader.as_asgi()), path("publish", Publisher.as_asgi())])
    app = ProtocolTypeRouter({"websocket": routes})

    def serve(listener: socket.socket) -> None:
        Server(app, endpoints=[f"fd:fileno={listener.fileno()}"], signal_handlers=False, verbosity=0).run()

    return serve
