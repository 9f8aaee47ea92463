"""What a key may be told to allow, and how it may be called: for pages, `/api/keys` and the command line alike."""

from ipaddress import ip_network

import msgspec

from tollbridge.core.ledger import MAX_AMOUNT
from tollbridge.errors import Faults, InvalidRequest
from tollbridge.store.keys import Rules
from tollbridge.values import LATEST_MS

RESETS = ("daily", "weekly", "monthly")
_RATES = {"rpm": "Requests per minute", "tpm": "Tokens per minute", "concurrency": "Calls at once"}
_MOST_RATE = 1_000_000_000
_LONGEST_LABEL = 100
_LONGEST_PATTERN = 200
_MOST_PATTERNS = 100


def check(label: str, rules: Rules, now: int) -> tuple[str, Rules]:
    """The label and the rules as they are stored. InvalidRequest names all that cannot be."""
    with Faults() as faults:
        label = faults.of(label, check_label, label)
        rules = faults.of(rules, _check_rules, rules, now)
    return label, rules


def check_label(label: str) -> str:
    """The label as it is stored. InvalidRequest."""
    label = label.strip()
    if len(label) > _LONGEST_LABEL or not label.isprintable():
        raise InvalidRequest(f"A label is at most {_LONGEST_LABEL} characters in one line.", param="label")
    return label


def _check_rules(rules: Rules, now: int) -> Rules:
    with Faults() as faults:
        if rules.limit is not None and not 0 < rules.limit < MAX_AMOUNT:
            faults.add("A spend limit must be an amount above zero, in USD.", "limit_usd")
        if rules.reset is not None and rules.reset not in RESETS:
            faults.add(f"A limit starts over {', '.join(RESETS[:-1])} or {RESETS[-1]}.", "limit_reset")
        elif rules.reset is not None and rules.limit is None:
            faults.add("A limit that starts over needs an amount: how much may be spent in each period.", "limit_usd")
        if rules.cost_cap is not None and not 0 < rules.cost_cap < MAX_AMOUNT:
            faults.add("The maximum cost of a call must be an amount above zero, in USD.", "cost_cap_usd")
        for name, words in _RATES.items():
            rate = getattr(rules, name)
            if rate is not None and not 0 < rate <= _MOST_RATE:
                faults.add(f"{words} must be a whole number from 1 to {_MOST_RATE:,}.", name)
        if rules.expires_at is not None and rules.expires_at <= now:
            faults.add("The time at which a key expires must be in the future.", "expires_at")
        if rules.expires_at is not None and rules.expires_at >= LATEST_MS:
            faults.add("This is too far in the future. Leave it out for a key that never expires.", "expires_at")
        models = faults.of((), _patterns, rules.models or ())
        addresses = faults.of((), _networks, rules.addresses or ())
    return msgspec.structs.replace(rules, models=models or None, addresses=addresses or None)


def _patterns(texts: tuple[str, ...]) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys(map(str.strip, texts)))
    for each in wanted:
        # An empty one would leave a key that is allowed everything.
        if not each or len(each) > _LONGEST_PATTERN or not each.isprintable() or " " in each:
            raise InvalidRequest(
                f"{each[:60]!r} is neither a model's name nor a pattern such as openai/*.", param="models"
            )
    if len(wanted) > _MOST_PATTERNS:
        raise InvalidRequest(f"Name at most {_MOST_PATTERNS} models or patterns.", param="models")
    return wanted


def _networks(texts: tuple[str, ...]) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys(map(_network, texts)))
    if len(wanted) > _MOST_PATTERNS:
        raise InvalidRequest(f"Name at most {_MOST_PATTERNS} addresses or networks.", param="addresses")
    return wanted


def _network(text: str) -> str:
    try:
        return str(ip_network(text.strip(), strict=False))
    except ValueError:
        raise InvalidRequest(
            f"{text.strip()[:60]!r} is not an address like 203.0.113.7, nor a network like 203.0.113.0/24.",
            param="addresses",
        ) from None
