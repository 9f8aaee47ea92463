"""This gateway through the suite of bad providers: what callers get, and what stands in the books.

Each trial has a provider and a model of its own, so that a breaker that one of them opens is not met by the next. The
books are verified when the site is left; here each row is compared with the tokens that are right, the charge with
the price of the row's tokens, and the usage that the caller was shown with the row.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import pytest
from tests.bad_provider.case import QUESTION, Case
from tests.bad_provider.client import Seen, Target, ask, post
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


def _config(cases: Sequence[Case], port: int) -> str:
    parts = []
    for number, case in enumerate(cases):
        dialect, path, auth = PATHS[case.dialect]
        parts.append(CONFIG.format(number=number, dialect=dialect, auth=auth, port=port, path=path))
    return "".join(parts)


def _charge(rows: list[Json]) -> Charge:
    return Charge(_tokens([row for row in rows if row["charge"]]))


async def _rows(site: Site, key: int, seen: int) -> list[Json]:
    """The rows of a key beyond those that were seen."""
    columns = "charge, input, cache_read, cache_write, cache_write_1h, output, outcome, flags, finish"
    sql = f"SELECT {columns} FROM usage WHERE key_id = {key} ORDER BY hold_id LIMIT 9 OFFSET {seen}"
    rows = await site.database.fetch(sql)
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

    async def elsewhere(self, case: Case, model: str, path: str) -> tuple[Seen, list[Json]]:
        """Ask at an endpoint that is not chat's."""
        text = f"[[{case.name}]] {QUESTION}"
        body: Json = {"model": model, "stream": case.stream}
        if path == "/messages":
            body |= {"max_tokens": 200, "messages": [{"role": "user", "content": text}]}
        else:
            body |= {"max_output_tokens": 200, "input": text}
        seen = await post(self._target, path, json.dumps(body).encode())
        return seen, await self._rows()

    async def _rows(self) -> list[Json]:
        """The new rows, once there is one."""
        for _ in range(1000):
            if rows := await _rows(self._site, self._number, self._seen):
                self._seen += len(rows)
                return rows
            await asyncio.sleep(0.005)
        return []


@contextlib.asynccontextmanager
async def _open(cases: Sequence[Case]) -> AsyncIterator[tuple[Site, list[_Customer]]]:
    """A site with a provider and a model for each of `cases`, and its customers."""
    async with (
        Provider(CASES) as provider,
        Site(always(says({})), config=_config(cases, provider.port), credit_usd="20") as site,
    ):
        customers = []
        for number in range(AT_ONCE):
            key = await site.make_key(label=f"customer {number}")
            [(row,)] = await site.database.fetch("SELECT MAX(id) FROM api_key")
            customers.append(_Customer(site, key, row))
        yield site, customers
        assert provider.trapped == 0


async def _try_all() -> dict[str, Shown]:
    found: dict[str, Shown] = {}
    waiting = iter(list(enumerate(TRIALS)))
    async with _open([trial.case for trial in TRIALS]) as (site, customers):

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

        await asyncio.gather(*map(work, customers))
        assert len(await site.settled(len(found))) == len(found) + sum(trial.case.again for trial in TRIALS)
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


# What callers of the other endpoints are shown is tested elsewhere; what they are billed must be the same.
ELSEWHERE = [(path, case) for path in ("/messages", "/responses") for case in CASES]


async def _bill_elsewhere() -> dict[str, str]:
    """What is wrong with each bill; empty when nothing is."""
    found: dict[str, str] = {}
    waiting = iter(list(enumerate(ELSEWHERE)))
    async with _open([case for _, case in ELSEWHERE]) as (_, customers):

        async def work(customer: _Customer) -> None:
            for number, (path, case) in waiting:
                seen, rows = await customer.elsewhere(case, f"m{number}", path)
                wrong = [_charge(rows).fits(outcome.bill) for outcome in case.right]
                found[f"{path}/{case.name}"] = "the answer was cut" if seen.cut else min(wrong, key=len)

        await asyncio.gather(*map(work, customers))
    return found


@pytest.fixture(scope="module")
def elsewhere() -> dict[str, str]:
    return run(_bill_elsewhere())


@pytest.mark.parametrize("name", [f"{path}/{case.name}" for path, case in ELSEWHERE])
def test_bill_is_the_same_at_other_endpoints(elsewhere: dict[str, str], name: str) -> None:
    assert not elsewhere[name]
