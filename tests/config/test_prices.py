"""Prices in the operator's file."""

from pathlib import Path

import pytest

from tollbridge.config import Settings, Source, read
from tollbridge.core.catalog import PeriodRow, PriceRow, TierRow
from tollbridge.errors import ConfigError


def settings(directory: Path, text: str) -> Settings:
    (directory / "tollbridge.toml").write_text(text)
    return read(Source(directory / "tollbridge.toml"), {})


def test_prices_have_tiers_and_periods(tmp_path: Path) -> None:
    (model,) = settings(
        tmp_path,
        """
        [providers.box]
        base_url = "http://10.0.0.5/v1"
        [[models]]
        id = "m"
        aliases = ["n"]
        input_modalities = ["image", "text"]
        capabilities = ["tools"]
        routes = [{ provider = "box", model = "x" }]
        [models.price]
        input = "1"
        output = "2"
        searches = "10"
        tiers = [{ above = 1000, input = "2", output = "3" }]
        [[models.price.periods]]
        days = "mon-fri"
        hours = "01:00-04:00"
        input = "3"
        output = "4"
        tiers = [{ above = 1000, input = "4", output = "5" }]
        """,
    ).models
    tier = TierRow(above=1000, input="4", output="5")
    assert model.price == PriceRow(
        input="1",
        output="2",
        searches="10",
        tiers=(TierRow(above=1000, input="2", output="3"),),
        periods=(PeriodRow(days="mon-fri", hours="01:00-04:00", input="3", output="4", tiers=(tier,)),),
    )
    assert (model.aliases, model.input_modalities, model.capabilities) == (("n",), ("text", "image"), ("tools",))


@pytest.mark.parametrize(
    ("price", "complaint"),
    [
        ("tiers = {}", "price.tiers: expected a list"),
        ('tiers = [{ above = 10, output = "1" }]', "input is missing"),
        ('tiers = [{ input = "1", output = "1" }]', "above is missing"),
        ('tiers = [{ above = 0, input = "1" }]', "price.above: expected a number of tokens"),
        ('tiers = [{ above = 9, input = "1", tiers = [] }]', "unknown meter"),
        ('periods = [{ hours = "1-2", input = "1" }]', "price: hours are written"),
        ('periods = [{ days = 1, input = "1" }]', "price.days: expected a text"),
        ('periods = [{ since = "2027-02-30", input = "1" }]', "price: a date is written"),
        ('searches = "a"', "price.searches: a price in USD"),
    ],
)
def test_what_is_wrong_in_a_price_is_said(tmp_path: Path, price: str, complaint: str) -> None:
    text = f"""
        [providers.box]
        base_url = "http://10.0.0.5/v1"
        [[models]]
        id = "m"
        routes = [{{ provider = "box", model = "x" }}]
        [models.price]
        input = "1"
        output = "2"
        {price}
        """
    with pytest.raises(ConfigError, match=complaint):
        settings(tmp_path, text)
