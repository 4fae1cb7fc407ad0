"""What a recording tells, in sentences computed from its events: the headline and the alternative text."""

from collections.abc import Sequence

from labserver.stage.pictures.words import duration
from labserver.stage.wire import DATA, MESSAGES, Exchange, Lane, WireEvent, close_name, elide, is_keepalive

__all__ = ["describe", "headline", "ladder_words"]


def headline(lanes: Sequence[Lane]) -> str:
    """Return the finding as a sentence; the author of a notebook may well know a better one."""
    found = [exchange for lane in lanes for exchange in lane.exchanges]
    if not found:
        return "Nothing passed"
    if any(lane.traced for lane in lanes):
        return _traced(lanes)
    if len(lanes) > 1:
        return _crowd(lanes)
    if len(found) > 1:
        return _again(found)
    return _websocket(found[0]) if found[0].upgrade else _http(found[0])


def _websocket(exchange: Exchange) -> str:
    answer = exchange.answer
    if exchange.refused:
        return "Nobody answers: the connection is refused"
    if any(event.name == "garbage" for event in exchange.events):
        return "Something else than WebSocket frames went over the wire"
    if answer is None:
        return "The handshake is never answered"
    if not exchange.websocket:
        return f"The handshake is refused: {answer.label}"
    return _cut(exchange) or _closed(exchange) or _both_ways(exchange)


def _cut(exchange: Exchange) -> str:
    ending = exchange.ending
    if ending is None or ending.kind != "cut":
        return ""
    count = _count(_sent(exchange, "client") + _sent(exchange, "server"), "message")
    if ending.sender == "client":
        return f"The client is gone without a close frame, after {count}"
    return f"No close frame: after {count} the client sees 1006"


def _closed(exchange: Exchange) -> str:
    """Tell a close that is not a plain 1000."""
    close = next((event for event in exchange.events if event.kind == "close"), None)
    if close is None or close.name == "1000":
        return ""
    code = int(close.name)
    return f"The {close.sender} closes with {code}: {_reason(close, code)}"


def _both_ways(exchange: Exchange) -> str:
    up, down = _sent(exchange, "client"), _sent(exchange, "server")
    if not up and not down:
        return "One handshake, then no message"
    if up == down:
        return f"One handshake, then {_count(up, 'message')} each way"
    return f"One handshake, then {_count(up, 'message')} to the server and {down} back"


def _reason(close: WireEvent, code: int) -> str:
    payload = close.data[2:] if isinstance(close.data, bytes) else b""
    return elide(payload.decode(errors="replace"), 40) if payload else close_name(code)


def _http(exchange: Exchange) -> str:
    answer, ending = exchange.answer, exchange.ending
    if exchange.refused:
        return "Nobody answers: the connection is refused"
    if any(event.name == "garbage" for event in exchange.events):
        return "Something else than HTTP went over the wire"
    if answer is None:
        return "The request is never answered"
    if exchange.failed:
        body = next((e for e in exchange.events if e.kind == "body" and e.sender == "server"), None)
        return f"The server answers {answer.label}" + (f": {elide(body.label, 40)}" if body else "")
    count = _arrived(exchange)
    failed = next((event for event in exchange.events if event.shown == "error"), None)
    if failed is not None:
        what = "record" if failed.kind == "line" else "event"
        return f"{count}, then an error {what} ends the stream"
    if ending is None:
        return f"{count}, and the stream is still open"
    return f"{count}, then {_ending(ending)}"


def _arrived(exchange: Exchange) -> str:
    noun = {"event": "event", "line": "row"}.get(exchange.stream, "")
    if noun:
        count = sum(
            e.kind in ("event", "line") and e.shown != "error" and e.sender == "server" for e in exchange.events
        )
        return f"{_count(count, noun)} {'arrives' if count == 1 else 'arrive'}"
    size = sum(event.size for event in exchange.events if event.kind == "body" and event.sender == "server")
    return f"{_count(size, 'byte')} {'arrives' if size == 1 else 'arrive'}"


def _ending(ending: WireEvent) -> str:
    if ending.kind == "cut":
        return "the connection is cut"
    return "the client leaves" if ending.label == "client leaves" else "the stream ends cleanly"


def _again(found: list[Exchange]) -> str:
    """One client, several requests: a reconnect tells from where it resumed."""
    resumed = [exchange.resumed for exchange in found[1:] if exchange.resumed]
    if resumed:
        if len(resumed) > 1:
            return f"The client comes back {len(resumed)} times, each time with its Last-Event-ID"
        return f"The stream ends early; the client resumes with {resumed[0]}"
    if all(exchange.upgrade for exchange in found):
        return f"{len(found)} conversations, one after the other"
    cut = _cuts(found)
    asked = f"The client asks {'twice' if len(found) == 2 else f'{len(found)} times'}"
    return f"{asked}; {cut} of the answers {'is' if cut == 1 else 'are'} cut" if cut else asked


def _crowd(lanes: Sequence[Lane]) -> str:
    events = [event for lane in lanes for event in lane.events]
    count = sum(event.kind in DATA and event.sender == "server" for event in events)
    cut = _cuts([exchange for lane in lanes for exchange in lane.exchanges])
    text = f"{len(lanes)} clients, {_count(count, 'message')} to them"
    return f"{text}; {_count(cut, 'connection')} cut" if cut else text


def _traced(lanes: Sequence[Lane]) -> str:
    """Tell what became of what was published."""
    events = [event for lane in lanes for event in lane.events if event.due is not None]
    fates = [event.fate for event in events]
    counts = {"late": fates.count("late"), "replayed": fates.count("replay")}
    counts["lost"] = sum(len(lane.missed) for lane in lanes)
    said = [f"{count} {word}" for word, count in counts.items() if count]
    who = "the client" if len(lanes) == 1 else f"{len(lanes)} clients"
    due = len(events) + counts["lost"]
    many = "1 delivery" if due == 1 else f"{due} deliveries"
    return f"{many} to {who}: {', '.join(said) if said else 'all on time'}"


def _cuts(found: Sequence[Exchange]) -> int:
    return sum(exchange.ending is not None and exchange.ending.kind == "cut" for exchange in found)


def describe(lanes: Sequence[Lane], span: float) -> str:
    """Return the alternative text of lanes: how many, how long, and what happened in each, in order."""
    parts = [f"{_number(len(lanes))} {'lane' if len(lanes) == 1 else 'lanes'}, 0 to {duration(span)}."]
    for lane in lanes[:12]:
        if lane.published:
            parts.append(f"{lane.name}: {_from_to(lane.published)}.")
            continue
        words = [_exchange_words(exchange) for exchange in lane.exchanges[:4]]
        more = len(lane.exchanges) - 4
        words += [f"and {more} more requests"] if more > 0 else []
        told = "; ".join(["; then ".join(words), *_fate_words(lane)])
        parts.append(f"{lane.name.capitalize() if len(lanes) == 1 else lane.name}: {told}.")
    if len(lanes) > 12:
        parts.append(f"{len(lanes) - 12} more lanes.")
    return " ".join(parts)


def _from_to(events: Sequence[WireEvent]) -> str:
    """Name events by the first and the last, and when those were."""
    first, last = events[0], events[-1]
    times = dict.fromkeys(duration(event.at) for event in (first, last))
    when = f"at {' to '.join(times)}"
    return f"{first.label} {when}" if first is last else f"{len(events)} ({first.label} to {last.label}) {when}"


def _fate_words(lane: Lane) -> list[str]:
    """Tell which events came late, again or never."""
    late = [event for event in lane.events if event.fate == "late"]
    again = [event for event in lane.events if event.fate == "replay"]
    words = []
    if late:
        most = max(event.at - (event.due or 0.0) for event in late)
        words.append(f"late: {_from_to(late)}, by up to {duration(most)}")
    words += [f"replayed: {_from_to(again)}"] if again else []
    return words + ([f"never received: {_from_to(lane.missed)}"] if lane.missed else [])


def _exchange_words(exchange: Exchange) -> str:
    words = [_request_words(exchange), _data_words(exchange)]
    alive = sum(is_keepalive(event) for event in exchange.events)
    sent = sum(event.sender == "client" and event.kind in DATA for event in exchange.events)
    words.append(_count(alive, "keepalive") if alive else "")
    words.append(f"{_count(sent, 'message')} sent" if sent else "")
    words += [f"error: {event.label}" for event in exchange.events if event.shown == "error"][:2]
    words.append(_ending_words(exchange))
    return ", ".join(word for word in words if word)


def _request_words(exchange: Exchange) -> str:
    request = exchange.request
    if request is None:
        return ""
    resumed = f" with {exchange.resumed}" if exchange.resumed else ""
    return f"{request.label}{resumed} at {duration(request.at)}"


_NOUNS = {"line": "row", "body": "byte", "text": "message", "bytes": "message", "event": "event"}


def _data_words(exchange: Exchange) -> str:
    """Tell how much the server sent, and from when to when."""
    data = [e for e in exchange.events if e.sender == "server" and e.kind in MESSAGES and e.shown != "error"]
    if not data:
        return ""
    first, last, noun = data[0], data[-1], _NOUNS[data[0].kind]
    count = sum(event.size for event in data) if noun == "byte" else len(data)
    names = f" ({first.label} to {last.label})" if len(data) > 1 and first.id and last.id else ""
    when = duration(first.at) if first is last else f"{duration(first.at)} to {duration(last.at)}"
    return f"{_count(count, noun)}{names} at {when}"


def _ending_words(exchange: Exchange) -> str:
    ending = exchange.ending
    if ending is None:
        return "still open"
    note = f" ({ending.note})" if ending.note else ""
    return f"{ending.label} at {duration(ending.at)}{note}" if ending.name != "refused" else "nothing arrived"


def ladder_words(exchange: Exchange) -> str:
    """Return the alternative text of a ladder: each frame in order, or the first and last of very many."""
    said = []
    for event in exchange.events:
        who = "the client" if event.sender == "client" else "the server"
        said.append(f"{who}: {event.label}" if event.kind not in ("cut", "full") else f"{event.label} ({event.note})")
    if len(said) > 24:
        said = [*said[:12], f"{len(said) - 18} more", *said[-6:]]
    return "Sequence diagram of client and server, time running down. " + "; ".join(said) + "."


def _sent(exchange: Exchange, sender: str) -> int:
    return sum(event.kind in ("text", "bytes") and event.sender == sender for event in exchange.events)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _number(number: int) -> str:
    words = ["No", "One", "Two", "Three", "Four", "Five", "Six", "Seven", "Eight", "Nine"]
    return words[number] if number < len(words) else str(number)
