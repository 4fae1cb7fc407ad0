"""What a rich result gives to a notebook: an image that survives an untrusted notebook, and its text."""

from base64 import b64decode
from html.parser import HTMLParser

from labserver.stage import Picture
from labserver.stage.rich import Html


class Images(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.found.append(dict(attrs))


def test_a_picture_is_an_image_with_its_alternative_text() -> None:
    alt = 'One "quoted" title. A < B & C, naïve.'
    bundle = Picture(svg="<svg>ï</svg>", alt=alt, twin="twin\n")._repr_mimebundle_()
    parser = Images()
    parser.feed(bundle["text/html"])
    (image,) = parser.found
    assert image["alt"] == alt
    assert image["width"] == "840"
    head, _, data = str(image["src"]).partition(",")
    assert head == "data:image/svg+xml;base64"
    assert b64decode(data).decode() == "<svg>ï</svg>"
    assert bundle["text/plain"] == "twin\n"


def test_html_carries_its_twin() -> None:
    shown = Html(html="<b>one</b>", twin="one")
    assert shown._repr_mimebundle_() == {"text/html": "<b>one</b>", "text/plain": "one"}
    assert repr(shown) == "one"
