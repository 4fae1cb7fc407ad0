"""What the stage's proxies share: their addresses, their tapes, and that a new one replaces the old one of its name.

`nginx.py` and `fault_proxy.py` build on it. `server.rescue` and the end of the process stop what is still open here.
"""

import asyncio
import atexit
import contextlib
import os
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import urlsplit

from labserver.errors import LabError

if TYPE_CHECKING:
    from labserver.stage.tape import Tape

__all__ = ["Proxy", "Upstream", "replace", "stop_all", "upstream_of"]

_HOST = re.compile(r"[A-Za-z0-9.:_-]+")  # names and addresses, no character that a configuration could trip over


class Proxy(ABC):
    """A proxy on a free port of the loopback; also a context manager, which stops it at the end.

    Attributes:
        name: the name it replaces others by.
        port: its TCP port. A notebook never prints it.
    """

    kind = "proxy"

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.tls = False  # whether clients have to speak TLS to it

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`, without a slash at the end."""
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        """`ws://127.0.0.1:<port>`, without a slash at the end."""
        return f"ws{'s' if self.tls else ''}://127.0.0.1:{self.port}"

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether it still passes anything on."""

    def tape(self, name: str = "tape", **options: Any) -> "Tape":
        """Return a tape of what passes between clients and this proxy (see `stage.tape.Tape`).

        Raises:
            LabError: it passes TLS on, of which a tape would hold nothing but ciphertext.
        """
        if self.tls:
            raise LabError("A tape can't read what TLS encrypts: start the server without ssl_certfile= to record it.")
        from labserver.stage.tape import Tape

        return Tape("127.0.0.1", self.port, name, **options)

    def stop(self) -> bool:
        """Stop it now and end its connections; return whether it ended. Again is harmless."""
        stopped = self._stop()
        with _lock:
            if stopped and _proxies.get(self.name) is self:
                del _proxies[self.name]
        return stopped

    @abstractmethod
    def _stop(self) -> bool: ...

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
        return f"<{type(self).__name__} {self.name!r} {'running' if self.alive else 'stopped'}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        link = f' at <a href="{self.url}" target="_blank">{self.url}</a>' if self.alive else ""
        return {"text/html": f"<code>{escape(repr(self))}</code>{link}", "text/plain": repr(self)}


P = TypeVar("P", bound=Proxy)

_proxies: dict[str, Proxy] = {}
_lock = threading.RLock()


def replace(name: str, make: Callable[[], P]) -> P:
    """Stop the proxy of that name, if there is one, and keep what `make` makes in its place."""
    if not isinstance(name, str) or not name:
        raise LabError(f'name={name!r} is no name: pass some text, such as name="edge".')
    with _lock:
        if (old := _proxies.get(name)) is not None:
            old.stop()
        made = _proxies[name] = make()
        return made


def stop_all() -> list[tuple[str, str, bool]]:
    """Stop every proxy; return name, kind and whether it ended, by name."""
    with _lock:
        return [(proxy.name, proxy.kind, proxy.stop()) for _, proxy in sorted(_proxies.items())]


class Upstream:
    """Where a proxy passes things on to: host and port, and whether it speaks TLS there."""

    def __init__(self, host: str, port: int, *, tls: bool = False) -> None:
        self.host, self.port, self.tls = host, port, tls

    @property
    def authority(self) -> str:
        """`host:port`, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def upstream_of(thing: Any) -> Upstream:
    """Return where `thing` listens: a server of `start`, an open tape, another proxy, or a URL.

    Raises:
        LabError: it is none of these, or it does not listen.
    """
    if getattr(thing, "alive", True) is False:
        raise LabError(f"{thing!r} does not run: start it before the proxy in front of it.")
    url = thing if isinstance(thing, str) else getattr(thing, "url", None)  # a tape says itself that it is not open
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        port = parts.port if parts is not None else None
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in ("http", "https", "ws", "wss") or not _HOST.fullmatch(parts.hostname or ""):
        raise LabError(
            f"A proxy can't pass anything on to {thing!r}: give it a server from start(), an open tape, another proxy, "
            'or a URL such as "http://127.0.0.1:8000".'
        )
    if parts.path.strip("/") or parts.query or parts.username is not None:
        raise LabError(f"The proxy passes every path on as it is: write the upstream as {parts.scheme}://host:port.")
    tls = parts.scheme in ("https", "wss")
    return Upstream(str(parts.hostname), port or (443 if tls else 80), tls=tls)


def _forked() -> None:
    """In a fork the proxies of its parent are not its own."""
    global _lock
    _proxies.clear()
    _lock = threading.RLock()


@atexit.register
def _at_exit() -> None:
    with contextlib.suppress(Exception):
        stop_all()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
