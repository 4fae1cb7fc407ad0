"""The participant's side: hand a check's report over to the room, in the background, until it has arrived once.

A check never waits for the room and never fails because of it. The verdict goes to the outbox on disk, and a thread
sends what is there, in order. It ends when nothing is left to send or the room refuses the participant; while the room
does not answer, it comes back after a random part of a growing pause (full jitter): a class must not come as one.
"""

import getpass
import random
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from labserver.errors import LabError
from labserver.school.room.outbox import Outbox
from labserver.school.room.verdict import Verdict
from labserver.school.verdicts import Report
from labserver.settings import get_settings

__all__ = ["Address", "Say", "Sender", "hand_over"]

TIMEOUT = 10.0  # seconds the room may take to connect, and to answer
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds, of which a random part is waited

Say = Callable[[str], None]
"""Shows a sentence below the check, in place of the one before. It is called from any thread."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a room is, and the key that lets a participant report to it."""

    url: str
    key: str

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read `http://host:8765/#key`.

        Raises:
            LabError: if it is something else.
        """
        with suppress(ValueError):
            parts = urlsplit(text.strip())
            if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and parts.fragment.isascii():
                url = f"{parts.scheme}://{parts.netloc}{parts.path}".rstrip("/")
                if parts.fragment:
                    return cls(url, parts.fragment)
        raise LabError(
            "LABSERVER_ROOM is not the address of a room: it looks like http://192.168.1.5:8765/#key, with the key. "
            "Copy the whole line that your instructor shows, and restart the kernel."
        )


def hand_over(report: Report, say: Say) -> None:
    """Have the report of a check sent to the room of `settings.room`, and return at once.

    Args:
        report: what the check said.
        say: is told how it went, now and later.
    """
    settings = get_settings()
    if settings.room is None or not settings.room.get_secret_value():
        return
    outbox = Outbox(settings.home / "room")
    verdict = Verdict.of(report, settings.name.strip() or _login())
    try:
        outbox.put(verdict)
        address = Address.parse(settings.room.get_secret_value())
    except OSError as error:
        say(f"Not reported to the room: nothing can be kept in {settings.home} ({error.strerror}).")
    except LabError as error:
        say(str(error))
    else:
        say(f"Reporting to the room as {verdict.name} ...")
        _sender(address, outbox.folder).send(verdict.id, say)


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # no such user: a container with a number for a user
        return "nobody"


@lru_cache(maxsize=8)
def _sender(address: Address, folder: Path) -> "Sender":
    """One for each room of this process."""
    return Sender(address, Outbox(folder))


@lru_cache(maxsize=1)
def _trusted() -> ssl.SSLContext:
    """Whom this machine trusts: read once, which takes longer than a verdict takes to send."""
    return ssl.create_default_context()


class _Later(Exception):
    """The room does not answer, or not now: try again after a pause."""


class _Refused(Exception):
    """The room refuses this participant, or is none: try again at the next check."""


class Sender:
    """Sends what an outbox holds to one room, by a thread that lives as long as there is something to send."""

    def __init__(self, address: Address, outbox: Outbox, *, first_pause: float = FIRST_PAUSE) -> None:
        self.address = address
        self.outbox = outbox
        self._first_pause = first_pause
        self._lock = threading.Lock()
        self._more = threading.Event()
        self._thread: threading.Thread | None = None
        self._says: dict[str, Say] = {}  # by the verdict's id; those of this process that have not arrived yet

    def send(self, id: str, say: Say) -> None:
        """Send what waits in the outbox, among it the verdict of that id, about which `say` is told."""
        with self._lock:
            self._says[id] = say
            self._more.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="labserver-room", daemon=True)
                self._thread.start()

    def join(self, timeout: float) -> bool:
        """Wait until there is nothing to do; return whether that is so after `timeout` seconds."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
        return self._thread is None

    def _run(self) -> None:
        headers = {"Authorization": f"Bearer {self.address.key}"}
        with httpx.Client(
            base_url=self.address.url, headers=headers, timeout=TIMEOUT, trust_env=False, verify=_trusted()
        ) as client:
            while self._wanted():
                self._until_sent_or_refused(client)

    def _wanted(self) -> bool:
        """Whether something came while the last round went; else this thread is no longer the one that sends."""
        with self._lock:
            if not self._more.is_set():
                self._thread = None
            return self._thread is not None

    def _until_sent_or_refused(self, client: httpx.Client) -> None:
        pause = self._first_pause
        while True:
            self._more.clear()
            try:
                self._send_all(client)
                return
            except _Refused as why:
                self._tell_all(str(why))
                return
            except _Later as why:
                self._tell_all(str(why))
            self._more.wait(random.uniform(0, pause))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _send_all(self, client: httpx.Client) -> None:
        try:
            for path, verdict in self.outbox.waiting():
                said = self._post(client, verdict)
                path.unlink(missing_ok=True)
                self._tell(verdict.id, said)
        except OSError as error:
            raise _Refused(f"Not reported to the room: {self.outbox.folder} fails ({error.strerror}).") from None

    def _post(self, client: httpx.Client, verdict: Verdict) -> str:
        """Send one verdict and return what to say of it: it is done with."""
        try:
            answer = client.post("/verdicts", json=verdict.model_dump())
        except (httpx.HTTPError, httpx.InvalidURL):
            raise _Later(self._away("does not answer")) from None
        if answer.status_code in (200, 201) and _is_number(answer):
            return f"Reported to the room as {verdict.name}."
        if answer.status_code in (413, 422):
            return "Not reported: the room does not know this exercise. Its lab is of another version than yours."
        if answer.status_code == 401:
            raise _Refused(
                "Not reported: the room does not accept the key in LABSERVER_ROOM. Copy the whole line that your "
                "instructor shows, and restart the kernel."
            )
        if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
            raise _Later(self._away("can't take it now"))
        raise _Refused(
            f"Not reported: what answers at {self.address.url} is no room. Correct LABSERVER_ROOM, and restart the "
            "kernel."
        )

    def _away(self, what: str) -> str:
        return f"Kept, and reported later: the room at {self.address.url} {what}."

    def _tell(self, id: str, sentence: str) -> None:
        with self._lock:
            say = self._says.pop(id, None)
        _say(say, sentence)

    def _tell_all(self, sentence: str) -> None:
        with self._lock:
            waiting = list(self._says.values())
        for say in waiting:
            _say(say, sentence)


def _say(say: Say | None, sentence: str) -> None:
    with suppress(Exception):  # a cell that is gone, a kernel that ends: the verdict matters, not the sentence
        if say is not None:
            say(sentence)


def _is_number(answer: httpx.Response) -> bool:
    """Whether this is a room's answer, and not the page of a hotel that wants to be paid."""
    try:
        return isinstance(answer.json()["number"], int)
    except (ValueError, KeyError, TypeError):
        return False
