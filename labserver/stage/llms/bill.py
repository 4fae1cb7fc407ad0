"""What answers cost: tokens counted by the wire, times the prices of the settings."""

from dataclasses import dataclass
from html import escape
from typing import Any

from labserver.settings import Settings
from labserver.stage.llms.ledger import Tokens

__all__ = ["Bill", "bill"]

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Bill:
    """What requests cost at Anthropic, or would: `_repr_mimebundle_` shows it as a table.

    Attributes:
        requests: how many there were, those that were refused included.
        input_tokens: tokens read.
        output_tokens: tokens written, those for clients that had left included.
        dollars: the price of both.
        paid: whether Anthropic was asked; else nothing was paid, and `dollars` is what it would have taken.
        model: whose prices these are.
    """

    requests: int
    input_tokens: int
    output_tokens: int
    dollars: float
    paid: bool
    model: str

    @property
    def headline(self) -> str:
        """What was paid, in words."""
        if self.paid:
            return "Anthropic was asked, and takes this."
        return "The lab's own endpoint was asked, and takes nothing. Anthropic's would take this."

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        rows = {
            "model": self.model,
            "requests": f"{self.requests:,}",
            "input tokens": f"{self.input_tokens:,}",
            "output tokens": f"{self.output_tokens:,}",
            "dollars": f"{self.dollars:.6f}",
        }
        cells = "".join(
            f'<tr><th style="text-align:left">{name}</th><td style="text-align:right">{escape(value)}</td></tr>'
            for name, value in rows.items()
        )
        return {"text/html": f"<p>{self.headline}</p><table>{cells}</table>", "text/plain": self.headline}

    def __repr__(self) -> str:
        return self.headline


def bill(tokens: Tokens, settings: Settings, *, paid: bool) -> Bill:
    """Return what tokens cost at the prices of `settings`: dollars per million, nothing of them cached."""
    dollars = (tokens.read * settings.llm_input_price + tokens.written * settings.llm_output_price) / MILLION
    return Bill(tokens.requests, tokens.read, tokens.written, dollars, paid, settings.model)
