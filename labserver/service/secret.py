"""The secret that signs tokens: it comes from the settings alone, and is never printed or logged."""

from labserver.errors import LabError
from labserver.settings import Settings

__all__ = ["SECRET_MIN_BYTES", "secret_of"]

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
