"""What a notebook holds: `Llm`, an endpoint that runs, made by `fake_llm` or, as `LABSERVER_LLM` says, by `llm`."""

import asyncio
import time
from dataclasses import replace
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from labserver.errors import LabError
from labserver.settings import Settings, get_settings
from labserver.stage.llms import faults
from labserver.stage.llms.bill import Bill, bill
from labserver.stage.llms.endpoint import Endpoint, Fake
from labserver.stage.llms.ledger import LlmRequest
from labserver.stage.llms.words import Voice
from labserver.stage.server import LiveServer, start

if TYPE_CHECKING:
    from labserver.stage.tape import Tape

__all__ = ["Llm", "endpoint", "fake_llm", "llm"]

IDLE = 60  # seconds that a connection may rest between two requests: longer than the SDK keeps one
LOOK = 0.005  # seconds between two looks at the ledger


class Llm:
    """An LLM endpoint that runs, or ran; also a context manager, which stops it at the end.

    Attributes:
        name: the name it replaces others by.
    """

    def __init__(self, endpoint: Endpoint, live: LiveServer, settings: Settings) -> None:
        self.name = live.name
        self._endpoint, self._live, self._settings = endpoint, live, settings

    @property
    def url(self) -> str:
        """The `base_url` for a client: `http://127.0.0.1:<port>`. `GET {url}/requests` gives `requests` as JSON."""
        return self._live.url

    @property
    def alive(self) -> bool:
        """Whether it still answers."""
        return self._live.alive

    @property
    def requests(self) -> list[LlmRequest]:
        """What it was asked, oldest first, as it stands now."""
        return self._endpoint.ledger.requests()

    async def settled(self, timeout: float = 5.0) -> list[LlmRequest]:  # noqa: ASYNC109 - a sentence, not a TimeoutError
        """Wait until no request is running; return all.

        Raises:
            LabError: after `timeout` seconds one still is.
        """
        until = time.monotonic() + timeout
        while running := self._endpoint.ledger.running():
            if time.monotonic() > until:
                asked = ", ".join(repr(request.prompt) for request in running)
                raise LabError(f"Still running after {timeout:g} s: {asked}. Close the client, or stop the endpoint.")
            await asyncio.sleep(LOOK)
        return self.requests

    def set(self, **changes: Any) -> None:
        """Change how it answers requests to come: `set(tokens=200, delay=0.05)`. What is not named stays as it is.

        Of a relay nothing changes: Anthropic answers as it does.

        Raises:
            LabError: there is no such thing to change, or its value can't be.
        """
        source = self._endpoint.source
        known = list(Voice.__dataclass_fields__)
        if wrong := [name for name in changes if name not in known]:
            raise LabError(f"There is no {wrong[0]}= to set; there are {', '.join(known)}.")
        voice = replace(source.voice if isinstance(source, Fake) else Voice(), **changes)
        if isinstance(source, Fake):
            source.voice = voice

    def next(self, fault: str, after: int = faults.AFTER, times: int = 1) -> None:
        """Order a fault for the next `times` answers; orders queue up.

        Args:
            fault: before the body "overloaded" (529), "rate_limited" (429), "bad_request" (400); after `after` tokens
                "error" (an error event), "truncated" (a clean end), "cut" (the connection is), "silent" (nothing more
                comes, and the connection stays open).
            after: tokens before it.
            times: answers; a retry of the SDK is one more request.

        Raises:
            LabError: there is no such fault, or a number can't be.
        """
        self._endpoint.orders.add(faults.fault(fault, after), times)

    @property
    def cost(self) -> float:
        """Dollars that its requests cost so far: nothing, where the endpoint is the lab's own."""
        return self.bill().dollars if self._endpoint.source.paid else 0.0

    def bill(self) -> Bill:
        """Return what its requests cost at Anthropic; where the endpoint is the lab's own, what they would have."""
        return bill(self._endpoint.ledger.tokens(), self._settings, paid=self._endpoint.source.paid)

    def tape(self, name: str = "tape", **options: Any) -> "Tape":
        """Return a tape of what passes between its clients and it (see `stage.tape.Tape`)."""
        return self._live.tape(name, **options)

    def logs(self) -> list[str]:
        """Return what its server logged, oldest first."""
        return self._live.logs()

    def errors(self) -> list[str]:
        """Return the exceptions that its server logged: none, if the lab is right."""
        return self._live.errors()

    def stop(self) -> bool:
        """Stop it now; answers that are under way are cut. Again is harmless."""
        return self._live.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def __repr__(self) -> str:
        return f"<Llm {self.name!r} {'running' if self.alive else 'stopped'}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": f"<code>{escape(repr(self))}</code>", "text/plain": repr(self)}


def fake_llm(*, tokens: int = 20, delay: float = 0.01, first: float = 0.0, seed: int = 1, name: str = "llm") -> Llm:
    """Start an LLM endpoint of the lab's own and return once it answers; a server of the same name is stopped first.

    It speaks Anthropic's Messages protocol: `AsyncAnthropic(base_url=llm.url, api_key="any")`. A prompt that ends in
    `#truncated` or another fault of `next` gets it, after five tokens; `#truncated:2` after two.

    Args:
        tokens: words per answer, as far as `max_tokens` of the request allows.
        delay: seconds between two tokens.
        first: seconds before the first one.
        seed: with the prompt, decides the words.
        name: two names are two endpoints side by side.

    Raises:
        LabError: an argument can't be.
    """
    return _stand(Endpoint(Fake(Voice(tokens, delay, first, seed))), name, get_settings())


def llm(*, tokens: int = 20, delay: float = 0.01, first: float = 0.0, seed: int = 1, name: str = "llm") -> Llm:
    """Start the LLM endpoint that `LABSERVER_LLM` chooses; a server of the same name is stopped first.

    "fake", the default, is `fake_llm`. "anthropic" is a relay to Anthropic, which takes money: it sends the key of
    `ANTHROPIC_API_KEY` along, asks `ANTHROPIC_BASE_URL` where that is set, makes the same faults by itself, holds every
    answer to `llm_max_tokens` tokens, and knows the `cost`. How many words come, and when, is then Anthropic's affair:
    the arguments but `name` are looked at and change nothing.

    Raises:
        LabError: an argument can't be, or there is no key.
    """
    settings = get_settings()
    return _stand(endpoint(settings, Voice(tokens, delay, first, seed)), name, settings)


def endpoint(settings: Settings, voice: Voice | None = None) -> Endpoint:
    """Return the endpoint that settings choose, not yet served. A key in the environment decides nothing.

    Raises:
        LabError: Anthropic is chosen, and there is no key.
    """
    if settings.llm == "fake":
        return Endpoint(Fake(voice or Voice()))
    from labserver.stage.llms.relay import Relay

    return Endpoint(Relay(settings))


def _stand(endpoint: Endpoint, name: Any, settings: Settings) -> Llm:
    if not isinstance(name, str) or not name:
        raise LabError(f'name={name!r} is no name: pass some text, such as name="llm".')
    return Llm(endpoint, start(endpoint.app(), name=name, timeout_keep_alive=IDLE), settings)
