"""What the lab's own endpoint says: words of a seed and a prompt, the same on each run, in sentences and paragraphs.

A token is a word with the space or the blank line before it. Blank lines are in it because they are in real answers,
and a relay that puts a raw token into an SSE event breaks on the first one.
"""

from dataclasses import dataclass
from random import Random

from labserver.stage.llms.faults import number

__all__ = ["Voice", "count", "message_id", "tokens"]

RIVER = """
a river carries small stones while the water keeps its own clock and every bend slows what hurries past
quiet pools hold leaves until rain returns then all of it moves again toward one wide naïve sea
"""
WORDS = RIVER.split()
OTHERS = {word: [other for other in WORDS if other != word] for word in ["", *WORDS]}  # no word comes twice in a row
SENTENCE = 7  # words
PARAGRAPH = 2  # sentences
CHARACTERS = 4  # of English text in one token of a real model, about
FRAME = 7  # tokens that a message costs beside its text


@dataclass(frozen=True, slots=True)
class Voice:
    """How the endpoint answers.

    Attributes:
        tokens: words per answer, if the request's `max_tokens` allows.
        delay: seconds between two tokens.
        first: seconds before the first one.
        seed: with the prompt, decides the words.
    """

    tokens: int = 20
    delay: float = 0.01
    first: float = 0.0
    seed: int = 1

    def __post_init__(self) -> None:
        number("tokens", self.tokens, least=1, whole=True, example="words per answer, such as 20")
        number("delay", self.delay, least=0, whole=False, example="seconds between two tokens, such as 0.01")
        number("first", self.first, least=0, whole=False, example="seconds before the first token, such as 0.5")
        number("seed", self.seed, least=0, whole=True, example="a whole number, such as 1")


def tokens(voice: Voice, prompt: str) -> list[str]:
    """Return the answer to a prompt."""
    random = Random(f"{voice.seed} {prompt}")
    found, word = [], ""
    for at in range(voice.tokens):
        word, last = random.choice(OTHERS[word]), at == voice.tokens - 1
        begins = at % SENTENCE == 0
        gap = "" if at == 0 else "\n\n" if at % (SENTENCE * PARAGRAPH) == 0 else " "
        ends = last or at % SENTENCE == SENTENCE - 1
        found.append(f"{gap}{word.capitalize() if begins else word}{'.' if ends else ''}")
    return found


def count(text: str) -> int:
    """Return about how many tokens a real model would count for a message of that text."""
    return FRAME + -(-len(text) // CHARACTERS)


def message_id(voice: Voice, prompt: str) -> str:
    """Return an id in the real one's form, the same for the same question."""
    return f"msg_{Random(f'id {voice.seed} {prompt}').getrandbits(96):024x}"
