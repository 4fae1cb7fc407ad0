"""The command `labserver room`: serve the room of one file until SIGINT or SIGTERM.

It writes no access log, and logs no body: what participants report is nobody's but the instructor's.
"""

import socket
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labserver.service.commands import bind
from labserver.settings import get_settings

if TYPE_CHECKING:  # it takes a third of a second to import, which no other command should wait for
    from labserver.school.room.store import Store

__all__ = ["room"]

GRACE = 2  # seconds that an answer may take after SIGTERM; the boards' streams end at once
ELSEWHERE = ("192.0.2.1", 9)  # an address nobody has (RFC 5737): which of ours would be used for it


def room(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8765,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 opens it to the room.")] = "127.0.0.1",
    keep: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where it is kept. [default: room.db in LABSERVER_HOME]")
    ] = None,
) -> None:
    """Show how far everybody is: participants' checks report here, and a page shows the room's progress.

    Started again with the same file, it knows everything and has the same keys.
    """
    from labserver.school.room.store import Store

    settings = get_settings()
    listener = bind(host, port)
    try:
        store = Store(keep or settings.home / "room.db")
        try:
            _announce(store, listener)
            _run(store, listener)
        finally:
            store.close()
    finally:
        listener.close()


def _announce(store: "Store", listener: socket.socket) -> None:
    shown, port = listener.getsockname()[:2]
    here = ip_address(shown)
    address = _address_here() if here.is_unspecified else shown
    url = f"http://{f'[{address}]' if ':' in address else address}:{port}"
    verdicts, people = store.counts()
    typer.echo(f"Board, for you alone:  {url}/#{store.board_key}")
    typer.echo(f"For participants:      LABSERVER_ROOM={url}/#{store.report_key}")
    if here.is_loopback:
        typer.echo("Only this machine reaches it. To open it to the room: labserver room --host 0.0.0.0")
    known = f"{verdicts} verdicts of {people} people are there; another --keep begins anew" if verdicts else "it is new"
    typer.echo(f"Kept in {store.path}: {known}.")


def _address_here() -> str:
    """Return the address under which others reach this machine, as far as it can tell; no packet is sent."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(ELSEWHERE)
        return str(probe.getsockname()[0])
    return socket.gethostname()


def _run(store: "Store", listener: socket.socket) -> None:
    import uvicorn

    from labserver.school.room.app import create_app

    class Server(uvicorn.Server):
        """Ends the boards' streams before it waits for them: they would last for ever."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            await self.lifespan.state["drain"]()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        create_app(store),
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again once it has shut down
        Server(config).run(sockets=[listener])
