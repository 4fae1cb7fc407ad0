"""A quiz in a cell: a question, a few choices, and feedback for the very one that the reader chose.

No widgets: the reader edits the guess in the cell and runs it again, in any notebook. What is shown depends on question
and guess alone, so that it can be stored and compared. A wrong guess does not give the right one away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from string import ascii_lowercase
from types import EllipsisType

from labserver.errors import LabError
from labserver.stage.rich import Html

__all__ = ["Choice", "Question", "quiz"]

_TONE = {True: ("✓", "right"), False: ("✗", "not so")}


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing that a reader may think.

    Attributes:
        text: what it says.
        feedback: why it is right or wrong, one to three sentences.
        see: where that is shown: a title, and an address relative to the notebook; ("", "") for nowhere.
    """

    text: str
    feedback: str
    see: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True)
class Question:
    """A question with its choices, which are called a, b, c and so on.

    Attributes:
        text: the question.
        choices: two or more.
        answer: the key of the right one.

    Raises:
        LabError: it has fewer than two choices or more than there are letters, or the answer is none of them.
    """

    text: str
    choices: Sequence[Choice]
    answer: str

    def __post_init__(self) -> None:
        if not 2 <= len(self.choices) <= len(ascii_lowercase):
            raise LabError(f"The question {self.text!r} has {len(self.choices)} choices: give it two or more.")
        if self.answer not in self.keys:
            raise LabError(f"The answer {self.answer!r} is no choice: name one of {_listed(self.keys)}.")

    @property
    def keys(self) -> list[str]:
        """What the choices are called."""
        return list(ascii_lowercase[: len(self.choices)])

    def choice(self, key: str) -> Choice:
        """Return the choice of that key."""
        return self.choices[self.keys.index(key)]


def quiz(question: Question, guess: "str | EllipsisType" = ...) -> Html:
    """Show a question, and to a guess its feedback.

    Args:
        question: what is asked.
        guess: the key of a choice, "a", "b" and so on; `...` shows the question alone.

    Raises:
        LabError: there is no such choice; the sentence names those there are.
    """
    key = None if guess is ... else _key(question, guess)
    return Html(_html(question, key), _text(question, key))


def _key(question: Question, guess: object) -> str:
    key = guess.strip().lower() if isinstance(guess, str) else guess
    if not isinstance(key, str) or key not in question.keys:
        raise LabError(f"There is no choice {guess!r}: set the guess to {_listed(question.keys)}, and run this again.")
    return key


def _listed(keys: Sequence[str]) -> str:
    return " or ".join(filter(None, [", ".join(f'"{key}"' for key in keys[:-1]), f'"{keys[-1]}"']))


def _again(question: Question) -> str:
    return f"Set the guess to {_listed(question.keys)}, and run this cell again."


def _text(question: Question, key: str | None) -> str:
    lines = [f"? {question.text}"]
    lines += [f"  {'>' if each == key else ' '} {each}  {question.choice(each).text}" for each in question.keys]
    if key is None:
        return "\n".join([*lines, f"  {_again(question)}"])
    sign, verdict = _TONE[key == question.answer]
    chosen = question.choice(key)
    lines += [f"  {sign} {key}: {verdict}. {chosen.feedback}"]
    lines += [f"  See: {chosen.see[0]}"] if chosen.see[0] else []
    return "\n".join(lines)


def _html(question: Question, key: str | None) -> str:
    rows = "".join(_row(each, question.choice(each).text, each == key) for each in question.keys)
    body = f'<p style="margin:0 0 6px"><b>{escape(question.text)}</b></p>{rows}'
    if key is None:
        said = escape(_again(question))
    else:
        sign, verdict = _TONE[key == question.answer]
        chosen = question.choice(key)
        title, address = chosen.see
        link = f' <a href="{escape(address)}">{escape(title)}</a>' if title else ""
        said = f"<b>{sign} {key}: {verdict}.</b> {escape(chosen.feedback)}{link}"
    look = "max-width:806px;line-height:1.5;border:1px solid rgba(128,128,128,.4);border-radius:8px;padding:12px 16px"
    return f'<div style="{look}">{body}<p style="margin:8px 0 0" role="status">{said}</p></div>'


def _row(key: str, text: str, chosen: bool) -> str:
    look = "font-weight:600;border-left:3px solid #c2552d" if chosen else "border-left:3px solid transparent"
    note = " &larr; your guess" if chosen else ""
    return f'<div style="padding:1px 8px;{look}"><code>{key}</code> {escape(text)}{note}</div>'
