"""What a TCP socket tells on POSIX systems alone."""

import sys

__all__ = ["unsent"]


def unsent(sock: int) -> int:
    """Return how many bytes written to a TCP socket its peer has not acknowledged yet (Linux; elsewhere 0)."""
    if not sys.platform.startswith("linux"):
        return 0
    import fcntl
    import termios

    try:
        return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)  # tcp(7): SIOCOUTQ
    except OSError:
        return 0
