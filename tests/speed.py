"""The times that the stage promises, measured where this runs; `soak.py` keeps them beside the machine and its load.

    python tests/speed.py first        from nothing imported to a server that answers, in this new process
    python tests/speed.py streams 20   start and stop of the lab's app, an SSE stream and a WebSocket open

Prints JSON: name -> list of seconds. Imports nothing beforehand that the stage would import.
"""

import json
import sys
import time

DEADLINE = 10.0  # seconds for a client to hear its stream's first message


def first() -> dict[str, list[float]]:
    """Return seconds of the first call of start(), its imports among them; a process has one."""
    began = time.perf_counter()
    from labserver.stage.server import start

    live = start()
    seconds = time.perf_counter() - began
    live.stop()
    return {"first": [seconds]}


def streams(repeats: int) -> dict[str, list[float]]:
    """Return seconds of `repeats` starts and stops after a first one; each stop finds two streams open."""
    from contextlib import closing
    from http.client import HTTPConnection

    from websockets.sync.client import connect

    from labserver.stage.server import start

    start().stop()
    times: dict[str, list[float]] = {"start": [], "stop": []}
    for _ in range(repeats):
        began = time.perf_counter()
        live = start()
        times["start"].append(time.perf_counter() - began)
        with (
            closing(HTTPConnection(live.host, live.port, timeout=DEADLINE)) as feed,
            connect(live.ws_url + "/ws") as ws,
        ):
            feed.request("GET", "/events?" + "&".join(["say=on"] * 100))  # 5 s of events: longer than this takes
            if not feed.getresponse().readline().startswith(b"id: 1"):
                raise RuntimeError("The SSE stream did not begin.")
            ws.send("hello")
            ws.recv(DEADLINE)
            began = time.perf_counter()
            stopped = live.stop()
            times["stop"].append(time.perf_counter() - began)
        if not stopped:
            raise RuntimeError("The server did not stop.")
    return times


if __name__ == "__main__":
    print(json.dumps(first() if sys.argv[1] == "first" else streams(int(sys.argv[2]))))
