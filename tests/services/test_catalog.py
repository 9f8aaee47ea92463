"""What an operator is told of the catalog."""

from datetime import date
from pathlib import Path

import pytest

from tollbridge.config import Settings, Source, read
from tollbridge.errors import NotFound
from tollbridge.services.catalog import FRESH_DAYS, Kind, complaints, offer, offers

TODAY = date(2026, 11, 22)
BOX = '[providers.box]\nbase_url = "http://10.0.0.5/v1"\n'
ROUTES = 'routes = [{ provider = "box", model = "x" }]\n'


def settings(tmp_path: Path, text: str, **environ: str) -> Settings:
    (tmp_path / "tollbridge.toml").write_text(text)
    return read(Source(tmp_path / "tollbridge.toml"), environ)


def found(tmp_path: Path, text: str, today: date = TODAY, **environ: str) -> list[tuple[Kind, str]]:
    return [(each.kind, each.text) for each in complaints(settings(tmp_path, text, **environ), today)]


def test_a_right_catalog_has_no_complaints(tmp_path: Path) -> None:
    model = '[[models]]\nid = "m"\nprice = { input = "2", output = "2" }\ncost = { input = "1", output = "2" }\n'
    assert found(tmp_path, BOX + model + ROUTES) == []


def test_the_markup_counts_and_tiers_and_hours_are_looked_at(tmp_path: Path) -> None:
    price = 'price = { input = "1", output = "2" }\n'
    dear = """
[models.cost]
input = "1"
output = "2.1"
searches = "10"
tiers = [{ above = 1000, input = "3", output = "2" }]
periods = [{ hours = "01:00-04:00", input = "1", output = "9" }]
"""
    text = BOX + '[billing]\nmarkup_percent = "10"\n[[models]]\nid = "m"\n' + price + ROUTES + dear
    below = "m at box: the price of {} is below its cost"
    assert found(tmp_path, text) == [
        (Kind.LOSS, below.format("searches")),
        *(
            (Kind.LOSS, below.format(f"{meter} above 1,000 tokens"))
            for meter in ("input", "cache_read", "cache_write", "cache_write_1h", "searches")
        ),
        (Kind.LOSS, below.format("output") + " (01:00-04:00 UTC)"),
    ]


def test_a_loss_is_named_where_it_begins_and_for_a_plan_that_pays_less(tmp_path: Path) -> None:
    """TODAY is a Sunday."""
    prices = """
price = { input = "1", output = "2", periods = [{ days = "sun", input = "1", output = "2" }] }
cost = { input = "1.15", output = "2.3", cache_read = "1.3" }
"""
    plans = '[plans.partner]\nmarkup_percent = "5"\nmodels = ["other*"]\n[plans.free]\nmarkup_percent = "10"\n'
    text = BOX + '[billing]\nmarkup_percent = "20"\n[[models]]\nid = "m"\n' + ROUTES + prices + plans
    below = "m at box: the price of {} is below its cost"
    assert found(tmp_path, text) == [
        (Kind.MISSING, "plans.partner.models: no model is called 'other*'"),
        (Kind.LOSS, below.format("cache_read")),
        *((Kind.LOSS, below.format(meter) + " on the plan free") for meter in
          ("input", "output", "cache_write", "cache_write_1h")),
    ]  # fmt: skip


def test_a_name_shows_the_model_that_it_calls(tmp_path: Path) -> None:
    """The shipped gpt-4o is not served, and customers who call that name get the operator's."""
    model = '[[models]]\nid = "m"\naliases = ["gpt-4o"]\nprice = { input = "2", output = "2" }\n'
    assert offer(settings(tmp_path, BOX + model + ROUTES), "gpt-4o").row.id == "m"
    assert offer(settings(tmp_path, BOX + model + ROUTES), "openai/gpt-4o").row.id == "gpt-4o"
    assert offer(settings(tmp_path, BOX + model + ROUTES, OPENAI_API_KEY="sk-1234"), "gpt-4o").row.id == "gpt-4o"


def test_prices_that_are_never_below_their_cost_at_the_same_time_are_right(tmp_path: Path) -> None:
    row = """
[[models]]
id = "m"
price = { input = "1", output = "1", periods = [{ days = "mon-fri", input = "5", output = "5" }] }
cost = { input = "1", output = "1", periods = [{ days = "mon-fri", hours = "01:00-04:00", input = "5", output = "5" }] }
"""
    assert found(tmp_path, BOX + row + ROUTES) == []


def test_the_operators_cost_is_compared_with_the_shipped_one(tmp_path: Path) -> None:
    row = """
[[models]]
id = "deepseek-v4-pro"
price = { input = "0.66", output = "3", cache_read = "0.022" }
routes = [{ provider = "deepseek", model = "deepseek-v4-pro" }]
"""
    ((kind, text),) = found(tmp_path, row, DEEPSEEK_API_KEY="canary")[:1]
    assert kind is Kind.CONFLICT
    assert "your cost and the shipped one differ: output 3 and 1.98 (genai-prices" in text


def test_doubtful_and_old_prices_of_models_that_are_sold_are_named(tmp_path: Path) -> None:
    complaints = found(tmp_path, "", DEEPSEEK_API_KEY="canary")
    assert (Kind.DOUBT, "deepseek-v4-pro at deepseek: genai-prices 0.2.3 is believed, but LiteLLM: 1.32 in") in [
        (kind, text.partition(",")[0] + "," + text.partition(",")[2].partition(",")[0]) for kind, text in complaints
    ]
    assert all("at deepseek:" in text for _, text in complaints)
    later = date.fromordinal(TODAY.toordinal() + FRESH_DAYS)
    old = [text for kind, text in found(tmp_path, "", later, DEEPSEEK_API_KEY="canary") if kind is Kind.STALE]
    assert any(text.startswith("deepseek-v4-pro: its price was read 181 days ago") for text in old)


def test_names_that_no_model_has_are_named(tmp_path: Path) -> None:
    own = '[[models]]\nid = "mine"\naliases = ["ours"]\nprice = { input = "1", output = "1" }\n' + ROUTES
    plans = '[plans.free]\nmodels = ["ours", "min*", "miine"]\n[catalog]\nmodels = ["depseek-chat", "deepseek-*"]\n'
    assert found(tmp_path, BOX + own + plans) == [
        (Kind.MISSING, "catalog.models: no model is called 'depseek-chat': did you mean deepseek-chat?"),
        (Kind.MISSING, "plans.free.models: no model is called 'miine': did you mean mine?"),
    ]


def test_without_anything_to_call_that_is_said(tmp_path: Path) -> None:
    assert found(tmp_path, BOX) == [(Kind.MISSING, "no model can be called: no configured provider serves any")]


def test_a_model_is_found_by_its_other_names(tmp_path: Path) -> None:
    own = '[[models]]\nid = "mine"\naliases = ["gemini-2.5-pro"]\nprice = { input = "1", output = "1" }\n'
    here = settings(tmp_path, BOX + own + ROUTES)
    assert offer(here, "google/gemini-2.5-pro").row.id == "google/gemini-2.5-pro"
    assert offer(here, "gemini-2.5-pro").row.id == "mine"
    assert [each.own for each in offers(here) if each.listed] == [True]
    with pytest.raises(NotFound, match="there is no model 'nothing'"):
        offer(here, "nothing")


def test_an_alias_that_is_an_id_is_named(tmp_path: Path) -> None:
    own = '[[models]]\nid = "mine"\naliases = ["deepseek-chat"]\nprice = { input = "1", output = "1" }\n'
    complaint = (Kind.CONFLICT, "mine: its alias deepseek-chat is the id of another model")
    assert complaint in found(tmp_path, BOX + own + ROUTES, DEEPSEEK_API_KEY="canary")
    assert complaint not in found(tmp_path, BOX + own + ROUTES)
