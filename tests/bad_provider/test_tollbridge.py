"""This gateway through the suite of bad providers: what callers get, and what stands in the books.

Each trial has a provider and a model of its own, so that a breaker that one of them opens is not met by the next. The
books are verified when the site is left; here each row is compared with the tokens that are right, the charge with
the price of the row's tokens, and the usage that the caller was shown with the row.
"""

import asyncio
from typing import NamedTuple

import pytest
from tests.bad_provider.case import Case
from tests.bad_provider.client import Seen, Target, ask
from tests.bad_provider.judge import Charge, Tokens, Verdict, judge, read
from tests.bad_provider.provider import Provider
from tests.bad_provider.suites import cases, control
from tests.gateway.site import Json, Site, always, run, says

CASES = cases()
# Nano-USD per token.
INPUT, CACHED, OUTPUT = 1_000, 100, 2_000
AT_ONCE = 8
PATHS = {
    "openai": ("openai_chat", "/v1", "bearer"),
    "anthropic": ("anthropic", "/v1", "x-api-key"),
    "gemini": ("gemini", "/v1beta", "x-goog-api-key"),
}

CONFIG = """
[providers.p{number}]
dialect = "{dialect}"
auth = "{auth}"
base_url = "http://127.0.0.1:{port}{path}"
api_key = "env:TEST_UPSTREAM_KEY"
cancel_stops_billing = true
timeout = "3s"
gap_timeout = "3s"

[[models]]
id = "m{number}"
context_window = 100000
output_limit = 4096
price = {{ input = "1", output = "2", cache_read = "0.1" }}
routes = [{{ provider = "p{number}", model = "upstream" }}]
"""


class Trial(NamedTuple):
    case: Case
    asked: bool

    def __str__(self) -> str:
        return self.case.name if not self.case.stream else f"{self.case.name}-{'asked' if self.asked else 'unasked'}"


TRIALS = [Trial(case, asked) for case in CASES for asked in ([True, False] if case.stream else [True])]


class Shown(NamedTuple):
    """What came of a trial: the verdict, and the row of the books."""

    verdict: Verdict
    rows: list[Json]
    told: Tokens | None
    follow_up: Verdict | None


def _config(port: int) -> str:
    parts = []
    for number, trial in enumerate(TRIALS):
        dialect, path, auth = PATHS[trial.case.dialect]
        parts.append(CONFIG.format(number=number, dialect=dialect, auth=auth, port=port, path=path))
    return "".join(parts)


def _charge(rows: list[Json]) -> Charge:
    return Charge(_tokens([row for row in rows if row["charge"]]))


async def _rows(site: Site) -> list[Json]:
    columns = "key_id, charge, input, cache_read, cache_write, cache_write_1h, output, outcome, flags, finish"
    rows = await site.database.fetch(f"SELECT {columns} FROM usage ORDER BY hold_id")
    return [dict(zip(columns.split(", "), row, strict=True)) for row in rows]


def _tokens(rows: list[Json]) -> Tokens:
    """What stands in the rows. What was written to a cache is part of the prompt like any other."""
    cached = sum(row["cache_read"] for row in rows)
    written = sum(row["cache_write"] + row["cache_write_1h"] for row in rows)
    return Tokens(sum(row["input"] for row in rows) + cached + written, sum(row["output"] for row in rows), cached)


class _Customer:
    """A key of its own, so that its rows are known among those of others who call at the same time."""

    def __init__(self, site: Site, key: str, number: int) -> None:
        self._site = site
        self._target = Target(f"http://127.0.0.1:{site.port}/v1", key, {})
        self._number = number
        self._seen = 0

    async def attempt(self, case: Case, model: str, *, asked: bool) -> tuple[Seen, Verdict, list[Json]]:
        seen = await ask(self._target, case, asked=asked, model=model)
        rows = await self._rows()
        return seen, judge(case, seen, _charge(rows), asked=asked), rows

    async def _rows(self) -> list[Json]:
        """The new rows, once there is one."""
        for _ in range(1000):
            rows = [row for row in await _rows(self._site) if row["key_id"] == self._number]
            if len(rows) > self._seen:
                new, self._seen = rows[self._seen :], len(rows)
                return new
            await asyncio.sleep(0.005)
        return []


async def _try_all() -> dict[str, Shown]:
    found: dict[str, Shown] = {}
    waiting = iter(list(enumerate(TRIALS)))
    async with (
        Provider(CASES) as provider,
        Site(always(says({})), config=_config(provider.port), credit_usd="20") as site,
    ):

        async def work(customer: _Customer) -> None:
            for number, trial in waiting:
                case = trial.case
                seen, verdict, rows = await customer.attempt(case, f"m{number}", asked=trial.asked)
                told = read(seen, stream=case.stream, asked=trial.asked).told
                again = None
                if case.again:
                    honest = control(case.dialect, stream=case.stream)
                    _, again, _ = await customer.attempt(honest, f"m{number}", asked=True)
                found[str(trial)] = Shown(verdict, rows, told, again)

        customers = []
        for number in range(AT_ONCE):
            key = await site.make_key(label=f"customer {number}")
            [(row,)] = await site.database.fetch("SELECT MAX(id) FROM api_key")
            customers.append(_Customer(site, key, row))
        await asyncio.gather(*map(work, customers))
        assert len(await site.settled(len(found))) == len(found) + sum(trial.case.again for trial in TRIALS)
        assert provider.trapped == 0
    return found


@pytest.fixture(scope="module")
def shown() -> dict[str, Shown]:
    return run(_try_all())


@pytest.mark.parametrize("trial", TRIALS, ids=str)
def test_bad_provider(shown: dict[str, Shown], trial: Trial) -> None:
    verdict, rows, told, follow_up = shown[str(trial)]
    assert not verdict.problems, f"{trial.case.why}: {verdict.problems} {rows}"
    assert verdict.best, f"acceptable, but not the best: {trial.case.right[0]}"
    [row] = rows
    tokens = _tokens(rows)
    price = (tokens.prompt - tokens.cached) * INPUT + tokens.cached * CACHED + tokens.output * OUTPUT
    assert row["charge"] in (0, price)
    if told is not None and row["charge"]:
        assert told == tokens
    if follow_up is not None:
        assert not follow_up.problems
