"""A8, A9, A17: money is exact, bounded, and read strictly."""

import ast
import json
import random
import re
from fractions import Fraction
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import tollbridge
from tollbridge.core.ledger import MAX_AMOUNT
from tollbridge.core.money import (
    charge,
    dollars,
    format_price,
    format_usd,
    parse_price,
    parse_usd,
    usd_bytes,
    without_thousands,
)
from tollbridge.values import Price, Usage

SOURCE = Path(tollbridge.__file__).parent
tokens = st.integers(0, 10_000_000)
prices = st.integers(0, 10**10)
METERS = ("input", "cache_read", "cache_write", "cache_write_1h", "output")


def used(**meters: int) -> Usage:
    return msgspec.convert(meters, Usage)


def exact(usage: Usage, price: Price, ppm: int) -> Fraction:
    """In nano-USD, by another way of counting."""
    return sum(
        (Fraction(getattr(usage, m)) * getattr(price, m) * ppm / 10**6 / 10**3 for m in METERS), start=Fraction(0)
    )


@given(st.tuples(*[tokens] * 5), st.tuples(*[prices] * 5), st.integers(0, 10_000_000))
@example((0,) * 5, (1,) * 5, 10**6)
@example((1, 0, 0, 0, 0), (1,) * 5, 1)
def test_charge_is_the_exact_value_rounded_up_once(counts: tuple[int, ...], each: tuple[int, ...], ppm: int) -> None:
    usage = used(**dict(zip(METERS, counts, strict=True)))
    price = msgspec.convert(dict(zip(METERS, each, strict=True)), Price)
    truth = exact(usage, price, ppm)
    assert 0 <= charge(usage, price, ppm) - truth < 1


@pytest.mark.parametrize(
    "cases", [pytest.param(20_000, id="short"), pytest.param(1_000_000, id="long", marks=pytest.mark.soak)]
)
def test_charge_agrees_with_fractions_on_real_looking_prices(cases: int) -> None:
    chance = random.Random(1)
    for _ in range(cases):
        usage = Usage(
            input=chance.randrange(200_000),
            cache_read=chance.choice([0, chance.randrange(100_000)]),
            cache_write=chance.choice([0, chance.randrange(9_000)]),
            output=chance.randrange(30_000),
        )
        price = msgspec.convert({meter: chance.choice([0, chance.randrange(10**8)]) for meter in METERS}, Price)
        ppm = chance.choice([1_000_000, 1_050_000, 1_333_333, chance.randrange(2_000_000)])
        difference = charge(usage, price, ppm) - exact(usage, price, ppm)
        assert 0 <= difference < 1, (usage, price, ppm)


def test_reasoning_is_inside_output_and_never_billed_again() -> None:
    price = Price(input=1000, output=1000, cache_read=1000, cache_write=1000, cache_write_1h=1000)
    assert charge(Usage(output=10, reasoning=7), price) == charge(Usage(output=10), price) == 10


def test_meters_without_a_price_of_their_own_cost_what_input_or_output_costs() -> None:
    price = Price(input=1000, output=3000, cache_read=1, cache_write=1, cache_write_1h=1)
    heard, spoken, drawn = Usage(audio_input=7), Usage(audio_output=7), Usage(image_output=7)
    assert [charge(usage, price) for usage in (heard, spoken, drawn)] == [7, 21, 21]
    dear = msgspec.structs.replace(price, audio_input=2000, audio_output=0, image_output=9000, searches=10**10)
    assert [charge(usage, dear) for usage in (heard, spoken, drawn)] == [14, 0, 63]
    assert charge(Usage(searches=3), price) == 0
    assert charge(Usage(input=1, audio_input=1, searches=3), dear) == 1 + 2 + 30_000_000


@pytest.mark.parametrize("meter", ["audio_input", "audio_output", "image_output", "searches"])
def test_a_seldom_used_meter_below_zero_is_an_error(meter: str) -> None:
    price = Price(input=1000, output=1000, cache_read=1000, cache_write=1000, cache_write_1h=1000, searches=1000)
    assert charge(used(**{meter: 5}), price) == 5
    with pytest.raises(ValueError, match="not negative"):
        charge(used(**{meter: -1}), price)


@pytest.mark.parametrize("meter", METERS)
def test_a_charge_out_of_range_or_negative_is_an_error(meter: str) -> None:
    price = Price(input=1000, output=1000, cache_read=1000, cache_write=1000, cache_write_1h=1000)
    assert charge(used(**{meter: MAX_AMOUNT - 1}), price) == MAX_AMOUNT - 1
    for count in (MAX_AMOUNT, 10**30, -1):
        with pytest.raises(ValueError):
            charge(used(**{meter: count}), price)


@given(st.integers(0, MAX_AMOUNT - 1))
def test_an_amount_survives_writing_and_reading(nano: int) -> None:
    text = format_usd(nano)
    assert parse_usd(text) == nano
    assert Fraction(text) == Fraction(nano, 10**9)
    assert re.fullmatch(r"\d+(\.\d{0,8}[1-9])?", text)
    assert Fraction(json.loads(text, parse_float=Fraction, parse_int=Fraction)) == Fraction(nano, 10**9)


@given(st.integers(-MAX_AMOUNT, MAX_AMOUNT) | st.integers(-50, 50).map(lambda units: units * 10**8))
def test_an_amount_in_bytes_is_the_shortest_decimal(nano: int) -> None:
    assert Fraction(usd_bytes(nano).decode()) == Fraction(nano, 10**9)
    assert re.fullmatch(rb"-?(0|[1-9]\d*)(\.\d{0,8}[1-9])?", usd_bytes(nano))
    assert format_usd(nano).encode() == usd_bytes(nano)


@pytest.mark.parametrize("meter", [*METERS, "audio_input", "audio_output", "image_output", "searches"])
def test_a_negative_count_is_never_priced(meter: str) -> None:
    price = Price(input=2, output=2, cache_read=1, cache_write=1, cache_write_1h=1, searches=1)
    with pytest.raises(ValueError, match="negative"):
        charge(msgspec.structs.replace(Usage(input=9_000, output=9_000), **{meter: -1}), price)


@given(st.integers(0, MAX_AMOUNT - 1))
def test_a_price_survives_writing_and_reading(pico: int) -> None:
    assert parse_price(format_price(pico)) == pico
    assert Fraction(format_price(pico)) == Fraction(pico, 10**6)


def test_amounts_as_people_write_them() -> None:
    assert parse_usd("0.50") == 500_000_000
    assert parse_usd("10") == 10_000_000_000
    assert parse_usd("0.000000001") == 1
    assert parse_price("0.27") == 270_000
    assert parse_price("15.000000000000") == 15_000_000
    assert format_usd(0) == "0"
    assert format_usd(-250_000_000) == "-0.25"
    assert format_usd(1) == "0.000000001"
    assert format_usd(12_000_000_000) == "12"
    assert format_price(270_000) == "0.27"


def test_commas_are_left_out_between_thousands_and_nowhere_else() -> None:
    plain = {"1,000": "1000", "12,345,678.90": "12345678.90", "999,999": "999999", "1000": "1000", "12.5": "12.5"}
    other = ("1,5", "0,500", "1,0000", "12,34,567", "1,000,", ",500", "1.000,50", "1,00")
    assert {text: without_thousands(text) for text in (*plain, *other)} == {
        **plain,
        **dict(zip(other, other, strict=True)),
    }


NOT_AMOUNTS = (
    *("", "-1", "+1", "-0", "1e3", "1E3", "1e309", "1e-9", "NaN", "nan", "Infinity", "inf", "-inf", "∞", "−1"),
    *("0x10", "0b1", "1j", "1_000", "1,000", "1'000", "1,5", "1 000", "1/2", "1;2", "USD 1", "$1", "1$", "1%"),
    *("1.", ".5", ".", "..", "1.2.3", "1.5.", "0..5", "--1", "1-", "01", "00", "00.5"),
    *(" 1", "1 ", "\t1", "1\n", "\n1", "1\r", "1\x00", "\ufeff1", "1\u00a0"),
    *("½", "١", "１", "1２", "1.５", "²"),
    *("true", "None", "null", "[]", "{}", '"1"', "'1'"),
    *("1.0000000001", "0.1234567890123", "4611686018.427387904", "9999999999999999999", "99999999999999999999"),
)


@pytest.mark.parametrize("text", NOT_AMOUNTS, ids=ascii)
def test_anything_else_is_not_an_amount(text: str) -> None:
    with pytest.raises(ValueError, match="USD"):
        parse_usd(text)


def test_a_price_is_as_strict_as_an_amount() -> None:
    assert parse_price("4611686018427.387903") == MAX_AMOUNT - 1
    for text in ("4611686018427.387904", "0.1234567", "-1", "1e-3", "", " 1"):
        with pytest.raises(ValueError, match="price"):
            parse_price(text)


def sources(*names: str) -> list[Path]:
    return sorted(path for name in names for path in SOURCE.glob(name))


@pytest.mark.parametrize("path", sources("core/money.py", "core/ledger.py", "core/pricing.py"), ids=lambda p: p.name)
def test_the_rules_of_money_know_no_float(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.Constant) and isinstance(node.value, float)), ast.unparse(node)
        assert not (isinstance(node, ast.Name) and node.id in {"float", "round", "Decimal"}), ast.unparse(node)
        assert not (isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, ast.Div)), ast.unparse(node)


@pytest.mark.parametrize("path", sources("store/**/*.py", "gateway/*.py"), ids=lambda p: str(p.relative_to(SOURCE)))
def test_whoever_handles_money_makes_no_float_of_it(path: Path) -> None:
    """A float may stand for seconds, so it is only the making of one that is refused."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in {"float", "round", "Decimal", "decimal.Decimal"}, ast.unparse(node)


@pytest.mark.parametrize(("price", "text"), [("0.5", "$0.50"), ("3", "$3.00"), ("0.0012", "$0.0012"), ("0", "$0.00")])
def test_a_price_has_cents_at_least(price: str, text: str) -> None:
    assert dollars(price) == text
