"""Origin: which web pages may talk to a WebSocket. Every pattern with a socket uses this; notebook 02 shows why.

A browser puts the page's origin into the handshake (RFC 6455, 4.1) and connects wherever the page wants: CORS does not
hold for WebSockets. So the server itself has to look. Programs send no `Origin`; a token tells who they are.
"""

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException
from fastapi.requests import HTTPConnection

from labserver.settings import Settings, get_settings


def same_origin(connection: HTTPConnection, settings: Annotated[Settings, Depends(get_settings)]) -> None:
    """Refuse, with 403 and before `accept`, a page that is neither this server's own nor in `settings.origins`."""
    origin = connection.headers.get("origin")
    own = origin is None or urlsplit(origin).netloc == connection.headers.get("host")
    if not own and origin not in settings.origins:
        raise HTTPException(403, "pages of this origin may not connect")
