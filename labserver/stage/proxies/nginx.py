"""The real nginx in front of a server: what a proxy does to streams, with its limits shortened to a lesson's length.

One process without workers, in the foreground, in a private folder, kept by `keeper.py` so that nothing of it outlives
its owner. Its listening socket is made here and handed over, which nginx knows as the way a new binary takes over from
an old one (the variable `NGINX`): the port is free for certain, and clients may connect before nginx is up.
"""

import contextlib
import math
import os
import re
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

from labserver.errors import LabError
from labserver.settings import get_settings
from labserver.stage.parts import find
from labserver.stage.proxies.base import Proxy, Upstream, replace, upstream_of
from labserver.stage.proxies.keeper import Kept

__all__ = ["Nginx", "nginx"]

ACCEL = "/accel/"  # where an app's X-Accel-Redirect finds the files of `accel=`
READY = "ready.labserver.invalid"  # the host name under which nginx itself answers that it is up (RFC 2606)
NAMES = ("127.0.0.1", "localhost", "*.example")  # for which it has a certificate (.example: RFC 2606)
PULSE = 0.01  # seconds between two looks whether a starting nginx has given up

CONFIG = """
daemon off;
master_process off;
pid pid;
error_log log warn;
worker_rlimit_nofile {files};
events {{ worker_connections {files}; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    default_type application/octet-stream;
    client_max_body_size 0;
    sendfile on;
    map $http_upgrade $connection_upgrade {{ default upgrade; "" close; }}
    server {{
        listen 127.0.0.1:{port}{ssl} default_server;
        http2 {http2};
        {certificate}
        gzip {gzip};
        gzip_types text/event-stream application/x-ndjson application/jsonl application/json text/plain;
        gzip_min_length 0;
        gzip_proxied any;
        location / {{
            proxy_pass {upstream};
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            {upgrade}
            proxy_buffering {buffering};
            proxy_read_timeout {timeout};
            proxy_send_timeout {timeout};
        }}
        {accel}
    }}
    server {{
        listen 127.0.0.1:{port}{ssl};
        server_name {ready};
        return 204;
    }}
}}
"""
UPGRADE = "proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $connection_upgrade;"
NO_UPGRADE = "proxy_set_header Connection close;"
CERTIFICATE = "ssl_certificate certificate; ssl_certificate_key key;"
FILES = "location {place} {{ internal; alias files/; }}"

_STAMP = re.compile(r"^[\d/]+ [\d:]+ \[(\w+)\] \d+#\d+: (?:\*\d+ )?")  # time, level, process#thread, *connection
_PORT = re.compile(r"(127\.0\.0\.1|localhost|\[::1\]):\d+")


class Nginx(Proxy):
    """An nginx that runs, or ran. Made by `nginx`."""

    kind = "nginx"

    def __init__(self, name: str, program: str, options: dict[str, Any], accel: Path | None, tls: bool) -> None:
        super().__init__(name)
        self.tls = tls
        self._lines: list[str] = []
        self._folder = Path(tempfile.mkdtemp(prefix="labserver-nginx-"))
        self._kept: Kept | None = None
        try:
            with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
                self.port = listener.getsockname()[1]
                self._configure(options, accel)
                # -e: before it has read its configuration nginx would log to the place it was built for
                command = [program, "-p", f"{self._folder}/", "-c", "conf", "-e", "log"]
                inherited = {"NGINX": f"{listener.fileno()};"}
                self._kept = Kept(command, self._folder, inherit=[listener.fileno()], environment=inherited)
            self._await_answer(get_settings().start_timeout)
        except BaseException:  # also an interrupted cell
            self._stop()
            raise

    @property
    def alive(self) -> bool:
        return self._kept is not None and self._kept.alive

    @property
    def pid(self) -> int | None:
        """The id of its one process. A notebook never prints it."""
        return self._kept.pid if self._kept is not None else None

    @property
    def ca_file(self) -> Path:
        """The certificate of the authority that signed its own, PEM; a client that is to trust it gets this file.

        For httpx: `verify=ssl.create_default_context(cafile=front.ca_file)`; for curl: `--cacert`.

        Raises:
            LabError: it does not speak TLS.
        """
        if not self.tls:
            raise LabError("This nginx has no certificate: start it with nginx(..., tls=True).")
        return self._folder / "ca.pem"

    def logs(self) -> list[str]:
        """Return the lines of its error log from "warn" up, oldest first, without times, process ids and ports.

        The last ones only (`settings.log_records`).
        """
        if self._folder.exists():
            lines = [line for line in [*self._read("output"), *self._read("log")] if "[notice]" not in line]
            self._lines = [
                _PORT.sub(r"\1", _STAMP.sub(r"[\1] ", line)) for line in lines[-get_settings().log_records :]
            ]
        return list(self._lines)

    def _read(self, name: str) -> list[str]:
        file = self._folder / name
        return file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []

    def _configure(self, options: dict[str, Any], accel: Path | None) -> None:
        if accel is not None:
            (self._folder / "files").symlink_to(accel, target_is_directory=True)  # so that no name needs quotes
        files = FILES.format(place=ACCEL) if accel is not None else ""
        options |= {"ssl": " ssl", "certificate": CERTIFICATE} if self.tls else {"ssl": "", "certificate": ""}
        if self.tls:
            self._certify()
        config = CONFIG.format(port=self.port, ready=READY, accel=files, files=4096, **options)
        (self._folder / "conf").write_text(config, encoding="utf-8")

    def _certify(self) -> None:
        """Make an authority and have it sign a certificate for this machine's names, `*.example` included."""
        import trustme  # only who asks for TLS pays for it

        authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        own = authority.issue_cert(*NAMES)
        authority.cert_pem.write_to_path(self._folder / "ca.pem")
        own.private_key_pem.write_to_path(self._folder / "key")
        for blob in own.cert_chain_pems:
            blob.write_to_path(self._folder / "certificate", append=True)

    def _await_answer(self, timeout: float) -> None:
        """Wait until nginx itself, not its upstream, answers a request."""
        until = time.monotonic() + timeout
        ready = b"HTTP/1.1 " + (b"400" if self.tls else b"204")  # where TLS is spoken, plain HTTP is refused, by nginx
        with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", self.port)) as probe:
            probe.settimeout(PULSE)
            probe.sendall(f"GET / HTTP/1.1\r\nHost: {READY}\r\nConnection: close\r\n\r\n".encode())
            while self.alive and time.monotonic() < until:
                with contextlib.suppress(TimeoutError):
                    if probe.recv(64).startswith(ready):
                        return
                    break
        said = self.logs() or [f"it did not answer within {timeout:g} s"]
        why = said[-1].removeprefix("[emerg] ").rstrip(".")
        raise LabError(f"nginx did not start: {why}. Mend that and run this again.")

    def _stop(self) -> bool:
        self.logs()  # its folder goes with it
        if self._kept is None:
            shutil.rmtree(self._folder, ignore_errors=True)
            return True
        self._kept.stop()
        return True


def nginx(
    upstream: Any,
    *,
    read_timeout: float = 60.0,
    buffering: bool = True,
    gzip: bool = False,
    http2: bool = False,
    tls: bool = False,
    upgrade: bool = True,
    accel: str | os.PathLike[str] | None = None,
    name: str = "nginx",
) -> Nginx:
    """Put the real nginx in front of a server and return once it answers. A proxy of the same name is stopped first.

    Args:
        upstream: a server of `start`, an open tape, another proxy, or a URL without a path.
        read_timeout: seconds of silence from the upstream (`proxy_read_timeout`), and of an upstream that takes
            nothing (`proxy_send_timeout`), after which nginx hangs up; its own default is 60.
        buffering: `proxy_buffering`; a response's `X-Accel-Buffering: no` turns it off for that response.
        gzip: compress for clients that accept it, event streams and NDJSON too.
        http2: speak HTTP/2 as well: with TLS to clients that choose it in the handshake (ALPN), as browsers do; without
            TLS to those that begin with it ("prior knowledge"), which no browser does.
        tls: speak TLS, and nothing else, with a certificate made here; `.url` is https then. Clients find the
            certificate of the authority behind it in `.ca_file`; `stage.browser()` accepts it without.
        upgrade: pass the headers `Upgrade` and `Connection` on, without which there are no WebSockets.
        accel: a folder; an app that answers `X-Accel-Redirect: /accel/<name>` has nginx send the file of that name.
        name: two names are two proxies side by side.

    Raises:
        LabError: nginx is not here, or does not start; the upstream does not run; a value can't be used.
    """
    target = upstream_of(upstream)
    if isinstance(read_timeout, bool) or not isinstance(read_timeout, int | float) or not 0.001 <= read_timeout < 1e6:
        raise LabError(f"read_timeout={read_timeout!r} is no time: pass seconds, such as read_timeout=1.0.")
    folder = Path(accel).resolve() if accel is not None else None
    if folder is not None and not folder.is_dir():
        raise LabError(f"accel={str(accel)!r} is no folder: pass the one whose files nginx is to send.")
    part = find("nginx")
    if not part.available:
        raise LabError(f"nginx is not available: {part.reason}")
    options = _options(target, read_timeout, buffering, gzip, http2, upgrade)
    return replace(name, lambda: Nginx(name, part.detail, options, folder, tls))


def _options(
    target: Upstream, read_timeout: float, buffering: bool, gzip: bool, http2: bool, upgrade: bool
) -> dict[str, str]:
    """Return what goes into `CONFIG`, in nginx's own words."""
    switch = {True: "on", False: "off"}
    return {
        "upstream": f"http{'s' if target.tls else ''}://{target.authority}",
        "timeout": f"{math.ceil(read_timeout * 1000)}ms",
        "buffering": switch[bool(buffering)],
        "gzip": switch[bool(gzip)],
        "http2": switch[bool(http2)],
        "upgrade": UPGRADE if upgrade else NO_UPGRADE,
    }
