"""nginx, one process, that sends files with sendfile: what a server of files can at best be."""

import os
import socket
from pathlib import Path

from labserver.bench.peers import Options, Peer, Serve
from labserver.stage.parts import find as find_part

__all__ = ["PEER", "build"]

CONFIG = """
daemon off;
master_process off;
pid pid;
error_log stderr warn;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    default_type application/octet-stream;
    sendfile on;
    server {{
        listen 127.0.0.1:{port};
        location /download/ {{ alias files/; }}
    }}
}}
"""

PEER = Peer("nginx", lambda: find_part("nginx").reason)


def build(options: Options) -> Serve:
    """Serve the files of `options["files_root"]` under /download/; nginx takes the place of this process."""
    folder = Path(options["files_root"]) / ".nginx"
    program = find_part("nginx").detail
    folder.mkdir(exist_ok=True)
    (folder / "files").unlink(missing_ok=True)
    (folder / "files").symlink_to(options["files_root"], target_is_directory=True)

    def serve(listener: socket.socket) -> None:
        (folder / "conf").write_text(CONFIG.format(port=listener.getsockname()[1]), encoding="utf-8")
        listener.set_inheritable(True)
        os.environ["NGINX"] = f"{listener.fileno()};"  # how a new nginx takes over a listening socket from an old one
        os.execv(program, [program, "-p", f"{folder}/", "-c", "conf", "-e", "stderr"])

    return serve
