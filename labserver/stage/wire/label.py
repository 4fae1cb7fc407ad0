"""Payloads in a few words: elided to one line, previewed as text or in hex, counted."""

__all__ = ["counted", "elide", "hexed", "preview"]

_HIDDEN = [*range(32), *range(127, 160), 0xFEFF]
_TURNING = [0x2028, 0x2029, *range(0x202A, 0x202F), *range(0x2066, 0x2068)]  # break lines, or turn the text's direction
_CONTROL: dict[int, str] = dict.fromkeys(_HIDDEN + _TURNING, "·") | {9: "\\t", 10: "\\n", 13: "\\r"}


def elide(text: str, width: int) -> str:
    """Return `text` on one line, at most `width` characters, the rest replaced by an ellipsis."""
    short = text[: width * 2].translate(_CONTROL)
    return short if len(short) <= width else short[: width - 1].rstrip() + "…"


def preview(body: bytes, width: int = 48) -> str:
    """Return the beginning of `body` as text if it is text, else in hex."""
    head = body[: width * 4]
    try:
        text = head.decode() if len(head) == len(body) else _decode_cut(head)
    except UnicodeDecodeError:
        return hexed(body, 16)
    if any(ord(char) < 32 and char not in "\r\n\t" for char in text):
        return hexed(body, 16)
    return elide(text, width)


def _decode_cut(head: bytes) -> str:
    """Decode `head`, which may end inside a character."""
    for spare in range(3):
        try:
            return head[: len(head) - spare].decode()
        except UnicodeDecodeError:
            continue
    return head[:-3].decode()


def hexed(data: bytes, most: int) -> str:
    """Return the first `most` bytes in hex."""
    return data[:most].hex(" ") + (" …" if len(data) > most else "")


def counted(number: int, noun: str) -> str:
    """Return `1 byte`, `1200 bytes`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
