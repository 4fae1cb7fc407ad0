"""Tokens: who somebody is, signed with the server's secret, for a limited time and one audience.

A token is a JWT, HS256 (RFC 7519). The secret comes from the settings alone and is never printed or logged.
"""

import time

import jwt

from labserver.errors import LabError
from labserver.settings import Settings

__all__ = ["ALGORITHM", "SECRET_MIN_BYTES", "mint", "secret_of"]

ALGORITHM = "HS256"
SECRET_MIN_BYTES = 32  # RFC 7518, section 3.2: a key of the hash's size or larger

_MAKE_ONE = (
    "set it to at least 32 random bytes: python -c 'import secrets; print(secrets.token_urlsafe(32))' makes some"
)


def secret_of(settings: Settings) -> str:
    """Return the server's secret.

    Raises:
        LabError: if there is none, or it is shorter than `SECRET_MIN_BYTES`.
    """
    if settings.secret is None:
        raise LabError(f"LABSERVER_SECRET is not set; {_MAKE_ONE}.")
    secret = settings.secret.get_secret_value()
    if (size := len(secret.encode())) < SECRET_MIN_BYTES:
        raise LabError(f"LABSERVER_SECRET is too short ({size} bytes); {_MAKE_ONE}.")
    return secret


def mint(user: str, *, secret: str, ttl: float, audience: str) -> str:
    """Return a signed token for `user`.

    Args:
        user: becomes the claim `sub`.
        secret: `SECRET_MIN_BYTES` or more, see `secret_of`.
        ttl: seconds until it expires (`exp`, whole seconds, at least one).
        audience: becomes the claim `aud`; the server takes a token only with its own audience.
    """
    now = int(time.time())
    claims = {"sub": user, "aud": audience, "iat": now, "exp": now + max(1, round(ttl))}
    return jwt.encode(claims, secret, algorithm=ALGORITHM)
