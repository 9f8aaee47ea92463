"""Compare what the client saw and was billed with what would have been right. Pure."""

import json
from typing import Any, NamedTuple

from tests.bad_provider.case import FREE, SECRET, Bill, Case, Kind, Outcome
from tests.bad_provider.client import Seen


class Tokens(NamedTuple):
    """A bill, or a usage object: `prompt` includes `cached`."""

    prompt: int
    output: int
    cached: int = 0

    def __str__(self) -> str:
        return f"{self.prompt} prompt, {self.cached} of them cached, + {self.output} output"


class Price(NamedTuple):
    """USD per token of input, output and cached input."""

    input: float
    output: float
    cached: float

    def span(self, bill: Bill) -> tuple[float, float]:
        """The least and the most that `bill` may cost."""
        dear, cheap = max(self.input, self.cached), min(self.input, self.cached)
        fixed = bill.cached.least if bill.cached.least == bill.cached.most else None
        if fixed is not None:
            low = (bill.prompt.least - fixed) * self.input + fixed * self.cached
            high = (bill.prompt.most - fixed) * self.input + fixed * self.cached
        else:
            low, high = bill.prompt.least * cheap, bill.prompt.most * dear
        return low + bill.output.least * self.output, high + bill.output.most * self.output


class Charge(NamedTuple):
    """What was billed, as far as it is known: tokens, or an amount in USD and the prices that led to it."""

    tokens: Tokens | None = None
    usd: float | None = None
    price: Price | None = None

    def fits(self, bill: Bill) -> str:
        """Why this is not `bill`; empty if it is, or if nothing is known."""
        if self.tokens is not None:
            return _misfit(self.tokens, bill)
        if self.usd is None or self.price is None:
            return ""
        low, high = self.price.span(bill)
        slack = 1e-6 * high + 1e-8
        return "" if low - slack <= self.usd <= high + slack else f"billed {self.usd:.9f} USD instead of {bill}"


class Reading(NamedTuple):
    """An answer, read as a careful client would."""

    text: str
    error: bool
    ended: bool  # it said that it was finished, and how
    told: Tokens | None  # the usage that the client was shown last
    problems: tuple[str, ...]


class Verdict(NamedTuple):
    """`problems`: empty if the gateway was right; `best`: whether it was as right as possible."""

    problems: tuple[str, ...]
    best: bool = False


def judge(case: Case, seen: Seen, charge: Charge, *, asked: bool) -> Verdict:
    reading = read(seen, stream=case.stream, asked=asked)
    complaints = []
    for number, outcome in enumerate(case.right):
        problems = _compare(outcome, seen, reading, charge)
        if not problems:
            return Verdict(reading.problems, best=number == 0)
        complaints.append(problems)
    # If several would do, report what separates it from the closest.
    return Verdict((*reading.problems, *min(complaints, key=len)))


def _compare(right: Outcome, seen: Seen, reading: Reading, charge: Charge) -> tuple[str, ...]:
    problems = []
    if right.kind is Kind.ERROR:
        if not reading.error or reading.text:
            problems.append(f"status {seen.status} with {_short(reading.text)} instead of an error")
        elif seen.status != 200 and not right.statuses.holds(seen.status):
            problems.append(f"status {seen.status} instead of {right.statuses}")
    elif seen.status != 200:
        problems.append(f"status {seen.status} instead of {right.kind.value}")
    elif right.kind is Kind.BROKEN:
        if not reading.error:
            problems.append("no error, although the provider broke off")
        if not right.text.startswith(reading.text):
            problems.append(f"text {_short(reading.text)} instead of the beginning of {_short(right.text)}")
    elif right.kind is Kind.ANSWER:
        if reading.error or not reading.ended:
            problems.append("an error, or no end, in a whole answer")
        if reading.text != right.text:
            problems.append(f"text {_short(reading.text)} instead of {_short(right.text)}")
    if (
        right.kind is Kind.ANSWER
        and right.bill != FREE
        and reading.told is not None
        and (why := _misfit(reading.told, right.bill))
    ):
        problems.append(f"the client was told {why}")
    if why := charge.fits(right.bill):
        problems.append(why)
    return tuple(problems)


def _misfit(tokens: Tokens, bill: Bill) -> str:
    fits = bill.prompt.holds(tokens.prompt) and bill.output.holds(tokens.output) and bill.cached.holds(tokens.cached)
    return "" if fits and tokens.cached <= tokens.prompt else f"{tokens} instead of {bill}"


def read(seen: Seen, *, stream: bool, asked: bool) -> Reading:
    is_stream = seen.headers.get("content-type", "").startswith("text/event-stream")
    problems = []
    if seen.cut:
        problems.append("the gateway cut its own answer")
    if SECRET.encode() in seen.body or SECRET in str(seen.headers):
        problems.append("the client was shown the provider's secret")
    if "set-cookie" in seen.headers:
        problems.append("a header of the provider reached the client")
    try:
        seen.body.decode()
    except UnicodeDecodeError:
        problems.append("the answer is not UTF-8")
    if is_stream:
        return _read_stream(seen.body, asked, problems)
    if stream and seen.status == 200:
        problems.append("a stream was asked for and something else came")
    document = _json(seen.body)
    if not isinstance(document, dict):
        return Reading("", seen.status != 200, False, None, (*problems, "the answer is not a JSON object"))
    error = bool(document.get("error"))
    if seen.status != 200:
        if not error:
            problems.append("an error without an error object")
        return Reading("", True, False, None, tuple(problems))
    choices = document.get("choices") or [{}]
    text = (choices[0].get("message") or {}).get("content") or ""
    return Reading(text, error, not error, _tokens(document.get("usage"), problems), tuple(problems))


def _read_stream(body: bytes, asked: bool, problems: list[str]) -> Reading:
    text, error, ended, told = "", False, False, None
    for block in body.decode(errors="replace").split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if not lines:
            continue
        if len(lines) != 1 or not lines[0].startswith("data: "):
            problems.append(f"an event that simple clients do not read: {_short(block)}")
            continue
        if lines[0] == "data: [DONE]":
            if ended:
                problems.append("two ends")
            ended = True
            continue
        if ended:
            problems.append("something after the end")
        chunk = _json(lines[0][6:].encode())
        if not isinstance(chunk, dict):
            problems.append(f"an event that is no JSON object: {_short(lines[0])}")
            continue
        error = error or bool(chunk.get("error"))
        choices = chunk.get("choices")
        if not choices and not chunk.get("error") and not asked:
            problems.append("an event without choices for a client that did not ask for one")
        for choice in choices or ():
            text += (choice.get("delta") or {}).get("content") or "" if choice.get("index") == 0 else ""
        if chunk.get("usage"):
            told = _tokens(chunk["usage"], problems)
    return Reading(text, error, ended, told, tuple(problems))


def _tokens(usage: Any, problems: list[str]) -> Tokens | None:
    if not usage:
        return None
    try:
        details = usage.get("prompt_tokens_details") or {}
        tokens = Tokens(usage["prompt_tokens"], usage["completion_tokens"], details.get("cached_tokens") or 0)
    except (AttributeError, KeyError):
        tokens = None
    if tokens is None or any(type(count) is not int or count < 0 for count in tokens):
        problems.append(f"a usage that no client can read: {_short(str(usage))}")
        return None
    return tokens


def _json(data: bytes) -> Any:
    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    try:
        return json.loads(data, parse_constant=refuse)
    except (ValueError, RecursionError):
        return None


def _short(text: str) -> str:
    return repr(text) if len(text) <= 60 else f"{text[:40]!r}… ({len(text)} characters)"
