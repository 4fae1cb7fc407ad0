"""The commands `labserver serve` and `labserver token`.

`serve` binds its socket before uvicorn starts, so that a port in use is one sentence and not a traceback.
"""

import errno
import socket
import sys
from contextlib import suppress
from enum import StrEnum
from typing import Annotated

import typer

from labserver.errors import LabError
from labserver.realtime.auth import Auth
from labserver.realtime.engines.memory import MemoryEngine
from labserver.service.secret import secret_of
from labserver.settings import Settings, get_settings

__all__ = ["bind", "serve", "token"]

APP = "labserver.service.app:create_app"
BACKLOG = 2048  # connections that may wait to be accepted: uvicorn's own default


class EngineName(StrEnum):
    """The engines that `serve` can run on."""

    memory = "memory"


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every interface.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    workers: Annotated[int, typer.Option(min=1, help="Processes that serve.")] = 1,
    engine: Annotated[EngineName, typer.Option(help="Where messages are kept.")] = EngineName.memory,
) -> None:
    """Serve the production app until SIGINT or SIGTERM: then every stream is told to come again, and the server ends.

    The memory engine keeps channels in the one process that serves them, so it takes one worker.
    """
    settings = get_settings()
    if workers > 1 and engine is EngineName.memory:
        raise LabError(
            "The memory engine keeps messages in one process: with several, each client would get those of its own "
            "worker alone. Leave --workers out."
        )
    from labserver.service.app import make_auth

    make_auth(settings, MemoryEngine().claim)  # a bad secret or origin must not wait for a login
    listener = bind(host, port)
    try:
        _run(listener, settings)
    finally:
        listener.close()


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket that child processes inherit.

    Raises:
        LabError: if the port is in use, may not be taken, or `host` is not a name or address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise LabError(f"Cannot listen on {host} ({error.strerror}); name an address with --host.") from None
    except UnicodeError:  # from the codec that makes a name fit for DNS (idna), before anything is looked up
        why = "each part between dots has 1 to 63 characters of a name"
        raise LabError(f"Cannot listen on {host!r}: {why}; name an address with --host.") from None
    try:
        if sys.platform != "win32":  # there it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)  # bind alone leaves two servers that use SO_REUSEADDR unaware of each other
    except OSError as error:
        listener.close()
        raise LabError(_why(error, host, port)) from None
    listener.set_inheritable(True)
    return listener


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} on {host} is in use; stop what serves there, or choose another with --port (0: a free one)."
        )
    if error.errno == errno.EACCES:
        return f"Port {port} may not be taken by this user; choose one above 1023 with --port."
    return f"Cannot listen on {host} port {port} ({error.strerror}); choose others with --host and --port."


def _run(listener: socket.socket, settings: Settings) -> None:
    import uvicorn

    from labserver.realtime.direct import protocols

    _give_up_on_the_dead(listener, settings.write_deadline)
    config = uvicorn.Config(APP, factory=True, timeout_graceful_shutdown=settings.shutdown_grace, **protocols(settings))
    shown, port = listener.getsockname()[:2]
    typer.echo(f"Serving on http://{f'[{shown}]' if ':' in shown else shown}:{port}", err=True)
    server = uvicorn.Server(config)
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again once it has shut down
        server.run(sockets=[listener])
    if not server.started:
        raise typer.Exit(3)  # uvicorn has logged why


def _give_up_on_the_dead(listener: socket.socket, seconds: float) -> None:
    """Let the system end a connection whose peer takes nothing for so long; connections inherit it (Linux)."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))


def token(
    user: Annotated[str, typer.Argument(help="Who the token is for: its `sub` claim.")],
    ttl: Annotated[float | None, typer.Option(help="Seconds it is valid. [default: LABSERVER_TOKEN_TTL, 3600]")] = None,
    aud: Annotated[
        str | None, typer.Option(help="Its audience. [default: LABSERVER_TOKEN_AUDIENCE, labserver]")
    ] = None,
) -> None:
    """Print a token for USER, signed with the server's secret (LABSERVER_SECRET)."""
    settings = get_settings()
    seconds = settings.token_ttl if ttl is None else ttl
    if not user.strip():
        raise LabError("USER is empty; name whom the token is for.")
    if not 0 < seconds < float("inf"):
        raise LabError("--ttl must be a positive number of seconds.")
    limits = settings.model_copy(update={"token_audience": aud or settings.token_audience})
    typer.echo(Auth([secret_of(settings)], limits, claim=MemoryEngine().claim).mint(user, seconds))
