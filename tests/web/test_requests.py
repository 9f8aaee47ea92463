"""One request, as its page shows what each meter came to."""

from msgspec.structs import replace

from tollbridge.core.ledger import Record
from tollbridge.store.prices import Terms
from tollbridge.values import Outcome, Price, Tier
from tollbridge.web.requests import Metered, metered

LOW = Price(input=1_000_000, output=2_000_000, cache_read=100_000, cache_write=1_250_000, cache_write_1h=2_000_000)
HIGH = Price(
    input=3_000_000, output=6_000_000, cache_read=300_000, cache_write=1, cache_write_1h=1, searches=10_000_000_000
)


def record(**counts: int) -> Record:
    return replace(Record(started_at=0, duration_ms=1, price_version=1, outcome=Outcome.COMPLETED), **counts)


def terms(multiplier_ppm: int = 1_000_000) -> Terms:
    price = replace(LOW, tiers=(Tier(above=100, price=HIGH),))
    return Terms(model="m", provider="p", upstream_model="u", price=price, cost=price, multiplier_ppm=multiplier_ppm)


def test_a_request_is_shown_at_the_price_for_the_whole_of_its_prompt() -> None:
    """All that was read is the prompt: from the cache too, and sound."""
    short = metered(record(input=60, cache_read=30, audio_input=10), terms())
    assert [each.amount for each in short] == [60_000, 3_000, 10_000]
    long = metered(record(input=60, cache_read=30, audio_input=11), terms())
    assert [each.amount for each in long] == [180_000, 9_000, 33_000]


def test_only_what_was_metered_is_shown_each_with_its_price_and_rounded_up() -> None:
    used = record(input=101, output=1, image_output=1, searches=2)
    assert metered(used, terms(1_500_001)) == [
        Metered("Input", 101, "$4.500003", 454_501),
        Metered("Output", 1, "$9.000006", 9_001),
        Metered("Image output", 1, "$9.000006", 9_001),
        Metered("Searches", 2, "$15.00001", 30_000_020),
    ]
