"""What the tests of pictures share: recordings made by hand, and the proof that a picture is well made."""

import re
from collections.abc import Callable, Sequence
from xml.etree import ElementTree

import pytest
from websockets.frames import Close, Frame, Opcode

from labserver.stage.pictures.sheet import WIDTH, Box
from labserver.stage.pictures.words import width
from labserver.stage.rich import Picture
from labserver.stage.wire import Conversation, End, Read, WireEvent, parse

SVG = "{http://www.w3.org/2000/svg}"


class Recorder:
    """Builds recordings: each method returns the events of one connection."""

    def __init__(self) -> None:
        self.connections = 0

    def websocket(
        self,
        steps: Sequence[tuple[float, str, str | bytes]],
        end: str = "close",
        start: float = 0.0,
        path: str = "/ws/echo",
    ) -> list[WireEvent]:
        """`steps` are time, sender and payload; `end` is close, cut, gone, open, or a close code with its reason."""
        up = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".encode()
        switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        found = self._talk([Read(start, "client", up), Read(start + 0.003, "server", switch)])
        at = start + 0.003
        for at, sender, payload in steps:
            opcode = Opcode.TEXT if isinstance(payload, str) else Opcode.BINARY
            data = payload.encode() if isinstance(payload, str) else payload
            raw = Frame(opcode, data).serialize(mask=sender == "client")
            found.reads.append(Read(at, sender, raw))  # type: ignore[arg-type]
        if end == "cut":
            found.ends.append(End(at + 0.02, "server", "reset"))
        elif end == "gone":
            found.ends.append(End(at + 0.02, "client", "reset"))
        elif end != "open":
            code, _, reason = ("1000", "", "") if end == "close" else end.partition(" ")
            payload = Close(int(code), reason).serialize()
            first, second = ("client", "server") if end == "close" else ("server", "client")
            for delay, sender in ((0.005, first), (0.006, second)):
                raw = Frame(Opcode.CLOSE, payload).serialize(mask=sender == "client")
                found.reads.append(Read(at + delay, sender, raw))  # type: ignore[arg-type]
        return parse(found)

    def stream(
        self,
        pieces: Sequence[tuple[float, str]],
        end: tuple[float, str] | None = None,
        *,
        start: float = 0.0,
        kind: str = "text/event-stream",
        path: str = "/events",
        last: str | None = None,
        status: str = "200 OK",
    ) -> list[WireEvent]:
        """`pieces` are time and body; `end` is its time and clean, cut or leaves."""
        resumed = f"Last-Event-ID: {last}\r\n" if last is not None else ""
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        found = self._talk([Read(start, "client", f"GET {path} HTTP/1.1\r\nHost: x\r\n{resumed}\r\n".encode())])
        found.reads.append(Read(start + 0.002, "server", head))
        for at, text in pieces:
            data = text.encode()
            found.reads.append(Read(at, "server", b"%x\r\n%s\r\n" % (len(data), data)))
        if end is not None and end[1] == "clean":
            found.reads.append(Read(end[0], "server", b"0\r\n\r\n"))
        elif end is not None:
            found.ends.append(End(end[0], "client" if end[1] == "leaves" else "server", "eof"))
        return parse(found)

    def _talk(self, reads: list[Read]) -> Conversation:
        self.connections += 1
        return Conversation(self.connections, reads)


@pytest.fixture
def record() -> Recorder:
    """A fresh `Recorder`."""
    return Recorder()


@pytest.fixture
def well_made() -> Callable[[Picture], None]:
    """Return a check: well-formed, unique ids, all text inside the sheet, no two texts on each other, alt and twin."""
    return check_picture


def check_picture(picture: Picture) -> None:
    root = ElementTree.fromstring(picture.svg)
    ids = [node.get("id") for node in root.iter() if node.get("id")]
    assert len(ids) == len(set(ids)) == 2
    assert root.get("aria-labelledby", "").split() == ids
    height = float(root.get("height", "0"))
    boxes = [text_box(node) for node in root.iter(SVG + "text")]
    for box in boxes:
        assert box.x0 >= 0, box
        assert box.x1 <= WIDTH, box
        assert box.y0 >= 0, box
        assert box.y1 <= height, box
    for index, box in enumerate(boxes):
        for other in boxes[index + 1 :]:
            assert not box.hits(other), (box, other)
    numbers = re.findall(r'(?:cx|x|width)="(-?[\d.]+)"', picture.svg)
    assert all(-1 <= float(number) <= WIDTH + 1 for number in numbers)
    assert "nan" not in picture.svg
    assert picture.twin.endswith("\n")
    assert all(line == line.rstrip() for line in picture.twin.splitlines())
    assert picture.alt.startswith(root.find(SVG + "title").text or "?")  # type: ignore[union-attr]
    assert len(picture.alt) > 30


def text_box(node: ElementTree.Element) -> Box:
    """The place of a `<text>`, by the widths that the drawing guesses with."""
    size, weight = float(node.get("font-size", "12")), int(node.get("font-weight", "400"))
    mono = node.get("font-family") is not None
    wide = width(node.text or "", size, mono, weight)
    for span in node:
        wide += 10 + width(span.text or "", 12)
    x, y = float(node.get("x", "0")), float(node.get("y", "0"))
    x0 = x - {"middle": wide / 2, "end": wide}.get(node.get("text-anchor", ""), 0)
    return Box(x0, y - 0.78 * size, x0 + wide, y + 0.24 * size, node.text or "")
