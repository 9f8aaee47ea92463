"""What a case is: what the provider does, and what a correct gateway makes of it.

Everything here is a value. `provider.py` plays the steps, `judge.py` compares the results.
"""

from enum import Enum
from typing import Any, NamedTuple


class Span(NamedTuple):
    """A whole number in a range, both ends included."""

    least: int
    most: int

    def holds(self, value: int) -> bool:
        return self.least <= value <= self.most

    def __str__(self) -> str:
        return str(self.least) if self.least == self.most else f"{self.least} to {self.most}"


class Bill(NamedTuple):
    """Tokens that the customer may be charged for. `prompt` includes `cached`, `output` includes reasoning."""

    prompt: Span
    output: Span
    cached: Span = Span(0, 0)

    def __str__(self) -> str:
        if self == FREE:
            return "nothing"
        cached = f", {self.cached} of them cached" if self.cached.most else ""
        return f"{self.prompt} prompt{cached} + {self.output} output"


FREE = Bill(Span(0, 0), Span(0, 0))


class Kind(Enum):
    ANSWER = "the whole answer"
    ERROR = "an error and no output"
    BROKEN = "what came, then an error"
    CUT = "an answer that ends"  # from a provider that would go on for ever


class Outcome(NamedTuple):
    """What the client gets, and what it is billed. `statuses`: for an error that came before any output."""

    kind: Kind
    bill: Bill
    text: str = ""
    statuses: Span = Span(400, 599)

    def __str__(self) -> str:
        return f"{self.kind.value}; billed: {self.bill}"


class Pause(NamedTuple):
    seconds: float


class Forever(NamedTuple):
    """Sent again and again, until the other side has gone, or `most` times."""

    data: bytes
    most: int = 200_000


class End(Enum):
    """How a connection ends early. Without one, it is kept open."""

    CLOSE = "FIN"
    RESET = "RST"


Step = bytes | Pause | Forever | End


class Case(NamedTuple):
    """`right`: the acceptable outcomes, best first; `why`: the reason. `fields` are added to the request."""

    name: str
    dialect: str
    stream: bool
    steps: tuple[Step, ...]
    right: tuple[Outcome, ...]
    why: str
    fields: dict[str, Any] = {}
    # Ask again at once: surplus output of a provider must not become somebody else's answer.
    again: bool = False


# About 60 tokens with any tokenizer, so that a gateway that counts by itself has something to count.
QUESTION = (
    "Tell me in plain words how a toll bridge over a river is paid for, who collects the money, what it is spent on, "
    "and why people would rather pay than take the long way round by the ford in the hills."
)
# One token per word with the tokenizers of all large providers.
ANSWER = (
    "The river runs from the hills to the sea and the old bridge stands over it where the road meets the water and "
    "people pay a small toll to cross it on their way to market and back again at night"
)
WORDS = len(ANSWER.split())
# From the tokens of QUESTION alone to the most that a template and a margin add; and those of ANSWER within a third.
COUNTED_PROMPT = Span(35, 160)
COUNTED_OUTPUT = Span(WORDS * 2 // 3, WORDS * 3 // 2)

COUNTED = Bill(COUNTED_PROMPT, COUNTED_OUTPUT)
# A gateway may charge for part of a broken answer if it says so, but never for more than was delivered.
DELIVERED = Bill(Span(0, COUNTED_PROMPT.most), Span(0, COUNTED_OUTPUT.most))


def exactly(prompt: int, output: int, cached: int = 0) -> Bill:
    return Bill(Span(prompt, prompt), Span(output, output), Span(cached, cached))


def answered(bill: Bill, text: str = ANSWER) -> Outcome:
    return Outcome(Kind.ANSWER, bill, text)


ANY_ERROR = Span(400, 599)


def failed(statuses: Span = ANY_ERROR) -> Outcome:
    return Outcome(Kind.ERROR, FREE, statuses=statuses)


def broken(text: str = ANSWER) -> tuple[Outcome, Outcome]:
    """Best is free; the delivered part may be charged. A gateway may also not have shown anything yet."""
    return Outcome(Kind.BROKEN, FREE, text), Outcome(Kind.BROKEN, DELIVERED, text)


# Occurs in every text that a provider writes about itself, and must not reach a customer.
SECRET = "sk-upstream-0123456789abcdef0123"
