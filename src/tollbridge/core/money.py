"""Money as integers: the one place where it is rounded, parsed and formatted.

Rule 1  Prices are pico-USD (10⁻¹² USD) per token or call, amounts nano-USD (10⁻⁹ USD). There is no float.
Rule 2  A request is rounded once, up, after everything is multiplied and summed: by less than one nano-USD.
Rule 3  Every amount is below 2⁶² in size, so that the sum of a few still fits a 64-bit column.
Rule 4  Text is a plain decimal. Input has no sign, exponent, space or separator; output has at most a minus.
"""

import re

from tollbridge.core.ledger import MAX_AMOUNT
from tollbridge.values import Meters, Price

PPM = 1_000_000
NANO_PER_CENT = 10_000_000

_PICO_PER_NANO = 1_000
_USD_PLACES = 9
_NANO_PER_USD = 10**_USD_PLACES
# USD per million tokens is 10⁶ pico-USD per token.
_PRICE_PLACES = 6
# A comma anywhere else may be meant as a decimal point.
_THOUSANDS = re.compile(r"[1-9][0-9]{0,2}(,[0-9]{3})+(\.[0-9]+)?")
_DECIMAL = re.compile(r"(0|[1-9][0-9]{0,18})(?:\.([0-9]{1,12}))?")


def charge(usage: Meters, price: Price, multiplier_ppm: int = PPM) -> int:
    """What `usage` costs in nano-USD at `price` × `multiplier_ppm` / 10⁶, rounded up once.

    ValueError: a meter, a price or the result is out of range.
    """
    read, written = parts(usage, price)
    return round_up(read + written, multiplier_ppm)


def parts(usage: Meters, price: Price) -> tuple[int, int]:
    """What was read and what was written, searches included, at `price`: pico-USD. ValueError: a meter is negative."""
    if price.tiers:
        price = tier(price, usage.prompt)
    read, output = usage.input, usage.output
    if read < 0 or output < 0:
        raise ValueError("a count of tokens is not negative")
    read *= price.input
    written = output * price.output
    if usage.cache_read or usage.cache_write or usage.cache_write_1h:
        read += _of_cache(usage, price)
    if usage.audio_input or usage.audio_output or usage.image_output or usage.searches:
        heard, others = _of_rare_meters(usage, price)
        read, written = read + heard, written + others
    return read, written


def tier(price: Price, prompt: int) -> Price:
    """The price for a whole request with a prompt of `prompt` tokens."""
    reached = price
    for step in price.tiers:
        if prompt > step.above:
            reached = step.price
    return reached


def _of_cache(usage: Meters, price: Price) -> int:
    cached, written, written_1h = usage.cache_read, usage.cache_write, usage.cache_write_1h
    if cached < 0 or written < 0 or written_1h < 0:
        raise ValueError("a count of tokens is not negative")
    return cached * price.cache_read + written * price.cache_write + written_1h * price.cache_write_1h


def _of_rare_meters(usage: Meters, price: Price) -> tuple[int, int]:
    """As `parts`."""
    heard, spoken, drawn, searches = usage.audio_input, usage.audio_output, usage.image_output, usage.searches
    if heard < 0 or spoken < 0 or drawn < 0 or searches < 0:
        raise ValueError("a count of tokens or calls is not negative")
    return (
        heard * (price.input if price.audio_input is None else price.audio_input),
        spoken * (price.output if price.audio_output is None else price.audio_output)
        + drawn * (price.output if price.image_output is None else price.image_output)
        + searches * price.searches,
    )


def round_up(pico: int, multiplier_ppm: int = PPM) -> int:
    """Whole nano-USD of `pico` × `multiplier_ppm` / 10⁶. ValueError: below zero or out of range."""
    if multiplier_ppm != PPM:
        # Rounding up to whole pico-USD first and then to nano-USD gives the same result as rounding once.
        pico = -(-pico * multiplier_ppm // PPM)
    nano = -(-pico // _PICO_PER_NANO)
    if nano < 0 or nano >= MAX_AMOUNT:
        raise ValueError("the charge is out of range")
    return nano


def parse_usd(text: str) -> int:
    """Nano-USD from `"12.5"`; at most nine places, below 2⁶² nano-USD. ValueError says what is wrong."""
    return _parse(text, _USD_PLACES, "an amount in USD")


def without_thousands(text: str) -> str:
    """`1,000` as `1000`; any other text as it is."""
    return text.replace(",", "") if _THOUSANDS.fullmatch(text) is not None else text


def parse_price(text: str) -> int:
    """Pico-USD per token from USD per million tokens: `"0.27"` is 270,000. ValueError says what is wrong."""
    return _parse(text, _PRICE_PLACES, "a price in USD per million tokens")


def format_usd(nano: int) -> str:
    """`"12.5"` from nano-USD: the shortest exact decimal, which is a JSON number too."""
    return usd_bytes(nano).decode()


def usd_bytes(nano: int) -> bytes:
    """`format_usd` as bytes, for the headers of every answer."""
    if nano < 0:
        return b"-" + usd_bytes(-nano)
    return (b"%d.%09d" % divmod(nano, _NANO_PER_USD)).rstrip(b"0").rstrip(b".")


def dollars(decimal: str) -> str:
    """`$0.50` from the decimal `0.5`: cents, and every further digit there is."""
    whole, _, fraction = decimal.partition(".")
    return f"${whole}.{fraction:0<2}"


def format_price(pico_per_token: int) -> str:
    """USD per million tokens, the shortest exact decimal, from pico-USD per token."""
    return _shortest(pico_per_token, _PRICE_PLACES)


def format_token_price(pico_per_token: int) -> str:
    """USD per token, or per call, the shortest exact decimal: 270,000 is `0.00000027`."""
    return _shortest(pico_per_token, _PRICE_PLACES * 2)


def _shortest(value: int, places: int) -> str:
    digits = str(value).rjust(places + 1, "0")
    return f"{digits[:-places]}.{digits[-places:]}".rstrip("0").rstrip(".")


def _parse(text: str, places: int, what: str) -> int:
    match = _DECIMAL.fullmatch(text)
    if match is None:
        raise ValueError(f'{what} must be a plain decimal like "0.25", not {text[:40]!r}')
    whole, fraction = match[1], (match[2] or "").rstrip("0")
    if len(fraction) > places:
        raise ValueError(f"{what} can have at most {places} decimal places: {text[:40]!r}")
    value = int(whole + fraction.ljust(places, "0"))
    if value >= MAX_AMOUNT:
        raise ValueError(f"{what} is too large: {text[:40]!r}")
    return value
