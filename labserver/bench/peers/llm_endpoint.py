"""The other side of the relay: the lab's own LLM endpoint, whose tokens are the same on each run."""

from labserver.bench.peers import Options, Peer, Serve
from labserver.bench.peers.serving import uvicorn_with

__all__ = ["PEER", "build"]

PEER = Peer("asked without the relay")


def build(options: Options) -> Serve:
    """Serve answers of `tokens` tokens, the first after `first` seconds, one every `delay` seconds."""
    from labserver.stage.llms.endpoint import Endpoint, Fake
    from labserver.stage.llms.words import Voice

    voice = Voice(tokens=options["tokens"], delay=options["delay"], first=options["first"])
    return uvicorn_with(Endpoint(Fake(voice)).app())
