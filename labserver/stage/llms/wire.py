"""The Messages protocol: frames of the stream, JSON errors, and what a request must hold.

After docs.claude.com, "Streaming Messages" and "Errors", as measured against the SDK (facts.md, section 8).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Ask", "Frame", "Refusal", "error_body", "frame", "read"]


@dataclass(frozen=True, slots=True)
class Frame:
    """One event of the stream: its name, and its bytes with the blank line at the end."""

    name: str
    raw: bytes

    def data(self) -> dict[str, Any]:
        """Return what its `data:` lines hold; nothing where that is no JSON object."""
        lines = [line[5:] for line in self.raw.splitlines() if line.startswith(b"data:")]
        try:
            found = json.loads(b"\n".join(lines))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def frame(name: str, **data: Any) -> Frame:
    """Return an event that says its name twice, as the real ones do: the SDK ignores those without `event:`."""
    text = json.dumps({"type": name, **data}, ensure_ascii=False)
    return Frame(name, f"event: {name}\ndata: {text}\n\n".encode())


def error_body(kind: str, message: str) -> dict[str, Any]:
    """Return the JSON of an error, in the body or in the stream."""
    return {"type": "error", "error": {"type": kind, "message": message}}


class Refusal(Exception):
    """A request that is refused before the body: status, error type and message."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(status, kind, message)
        self.status, self.kind, self.message = status, kind, message


@dataclass(frozen=True, slots=True)
class Ask:
    """What a request asks for; `body` is all of its JSON, `raw` that as it came."""

    prompt: str
    model: str
    stream: bool
    max_tokens: int
    attempt: int
    body: dict[str, Any]
    raw: bytes
    headers: Mapping[str, str]

    @property
    def text(self) -> str:
        """Return all text that a model would read: the system prompt and every message."""
        messages = self.body["messages"]
        return "\n".join([_text(self.body.get("system", "")), *(_text(each.get("content")) for each in messages)])


def read(headers: Mapping[str, str], raw: bytes) -> Ask:
    """Return what a request asks for.

    Raises:
        Refusal: the real API would refuse it: no key, no version, no JSON, a field that is missing or wrong.
    """
    if not headers.get("x-api-key") and not headers.get("authorization"):
        raise Refusal(401, "authentication_error", "x-api-key header is required")
    if not headers.get("anthropic-version"):
        raise _bad("anthropic-version: header is required")
    try:
        body = json.loads(raw)
    except ValueError:
        raise _bad("The request body is not valid JSON") from None
    if not isinstance(body, dict):
        raise _bad("The request body must be a JSON object")
    for name, fits, wanted in (
        ("model", _is_text, "Input should be a valid string"),
        ("max_tokens", _is_count, "Input should be greater than or equal to 1"),
        ("messages", _are_messages, "Input should be a list of messages, each with role and content"),
    ):
        if name not in body:
            raise _bad(f"{name}: Field required")
        if not fits(body[name]):
            raise _bad(f"{name}: {wanted}")
    if not isinstance(stream := body.get("stream", False), bool):
        raise _bad("stream: Input should be a valid boolean")
    prompt = _prompt(body["messages"])
    return Ask(prompt, body["model"], stream, body["max_tokens"], _attempt(headers), body, raw, headers)


def _bad(message: str) -> Refusal:
    return Refusal(400, "invalid_request_error", message)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_message(each) for each in value)


def _is_message(value: Any) -> bool:
    if not isinstance(value, dict) or value.get("role") not in ("user", "assistant"):
        return False
    content = value.get("content")
    blocks = isinstance(content, list) and bool(content) and all(isinstance(block, dict) for block in content)
    return blocks or _is_text(content)


def _prompt(messages: list[dict[str, Any]]) -> str:
    asked = [each for each in messages if each["role"] == "user"]
    return _text(asked[-1]["content"]) if asked else ""


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    blocks = content if isinstance(content, list) else []
    return "\n".join(str(block.get("text", "")) for block in blocks if isinstance(block, dict))


def _attempt(headers: Mapping[str, str]) -> int:
    """Return which attempt of the SDK this is: it counts its retries."""
    retries = headers.get("x-stainless-retry-count", "0")
    return int(retries) + 1 if retries.isdecimal() and len(retries) < 5 else 1
