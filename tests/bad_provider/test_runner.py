"""The suite as others run it: a process of its own, against a gateway that it knows nothing of."""

import asyncio
import sys
from pathlib import Path

import pytest
from tests.bad_provider.bills import BillError, source
from tests.bad_provider.case import ANSWER, Bill, End, Kind, Span, answered, broken, exactly
from tests.bad_provider.client import Seen
from tests.bad_provider.judge import Charge, Price, Tokens, judge
from tests.bad_provider.openai_speech import USAGE, completion, streamed
from tests.bad_provider.suites import cases, control
from tests.gateway.site import Site, always, run, says
from tests.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
UNKNOWN = Charge()
PRICE = Price(1e-6, 2e-6, 1e-7)
CONFIG = """
[providers.bad]
base_url = "http://127.0.0.1:{port}/v1"
api_key = "env:TEST_UPSTREAM_KEY"

[[models]]
id = "bad-provider"
context_window = 100000
output_limit = 4096
price = {{ input = "1", output = "2", cache_read = "0.1" }}
routes = [{{ provider = "bad", model = "upstream" }}]
"""


async def suite(*arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bad_provider", *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()


def test_runner_says_which_cases_a_gateway_gets_right() -> None:
    async def test() -> None:
        port = free_port()
        async with Site(always(says({})), config=CONFIG.format(port=port)) as site:
            common = ("--gateway", f"http://127.0.0.1:{site.port}/v1", "--provider-port", str(port))
            mine = (*common, "--model", "bad-provider", "--only", "/cached")
            status, said = await suite(*mine, "--key", site.key, "--bill", "field:cost")
            assert (status, "FAIL" in said) == (0, False), said
            wrong = ("--bill", "field:cost", "--price", "1,2,5")
            status, said = await suite(*mine, "--key", site.key, *wrong)
            assert (status, "FAIL  openai/cached-all" in said) == (1, True), said
            status, said = await suite(*mine, "--key", "no such key")
            assert (status, "control fails" in said) == (2, True), said

    run(test())


def test_runner_lists_its_cases() -> None:
    status, said = asyncio.run(suite("--list"))
    assert status == 0
    assert all(case.name in said for case in cases())


def test_every_case_says_why_and_what_is_right() -> None:
    for case in cases():
        assert case.why
        assert case.right
        assert case.steps
        for step in case.steps[:-1]:
            assert not isinstance(step, End), f"{case.name} goes on after its end"


WHOLE = control("openai", stream=False)
STREAM = control("openai", stream=True)
GOOD = Seen(200, {"content-type": "application/json"}, completion(usage=USAGE))


def judged(seen: Seen, *, asked: bool = True, charge: Charge = UNKNOWN) -> tuple[str, ...]:
    case = STREAM if "event-stream" in seen.headers["content-type"] else WHOLE
    return judge(case, seen, charge, asked=asked).problems


def events(*parts: bytes) -> Seen:
    return Seen(200, {"content-type": "text/event-stream"}, b"".join(parts))


def test_judge_accepts_what_is_right() -> None:
    assert judged(GOOD) == ()
    assert judged(events(*streamed(USAGE))) == ()
    assert judged(GOOD, charge=Charge(Tokens(60, USAGE["completion_tokens"]))) == ()


def test_judge_finds_what_is_wrong() -> None:
    wrong = [
        judged(GOOD._replace(cut=True)),
        judged(GOOD._replace(status=500)),
        judged(GOOD._replace(body=b"{}")),
        judged(GOOD._replace(body=completion("something else", USAGE))),
        judged(GOOD._replace(body=completion(ANSWER, {**USAGE, "completion_tokens": -1}))),
        judged(GOOD._replace(body=completion(ANSWER, {**USAGE, "prompt_tokens": 61}))),
        judged(GOOD._replace(headers={**GOOD.headers, "set-cookie": "a=b"})),
        judged(GOOD, charge=Charge(Tokens(60, 0))),
        judged(GOOD, charge=Charge(usd=1.0, price=PRICE)),
        judged(events(*streamed(USAGE)), asked=False),
        judged(events(*streamed(USAGE)[:-1])),
        judged(events(*streamed(USAGE), b"data: [DONE]\n\n")),
        judged(events(*streamed(USAGE)[:2], b'data: {"error":{"message":"x"}}\n\n')),
        judged(events(b"event: x\n", *streamed(USAGE))),
        judged(events(b"data: NaN\n\n", *streamed(USAGE))),
    ]
    assert all(wrong), wrong


def test_broken_answer_that_ends_as_if_it_were_whole_is_wrong() -> None:
    case = next(case for case in cases() if case.name == "openai/rst-midway-stream")
    assert {outcome.kind for outcome in case.right} == {Kind.BROKEN}
    pieces = streamed()[:3]
    assert judge(case, events(*pieces, b"data: [DONE]\n\n"), Charge(), asked=True).problems
    assert not judge(case, events(*pieces, b'data: {"error":{"message":"x"}}\n\n'), Charge(), asked=True).problems


def test_amount_is_compared_within_what_a_bill_may_cost() -> None:
    assert not Charge(usd=60e-6 + 10e-6, price=PRICE).fits(exactly(60, 5))
    assert Charge(usd=61e-6 + 10e-6, price=PRICE).fits(exactly(60, 5))
    assert not Charge(usd=40e-6 + 2e-6 + 10e-6, price=PRICE).fits(exactly(60, 5, cached=20))
    counted = Bill(Span(50, 70), Span(3, 9))
    assert not Charge(usd=60e-6 + 10e-6, price=PRICE).fits(counted)
    assert Charge(usd=0, price=PRICE).fits(counted)
    assert not Charge().fits(counted)
    assert answered(counted).bill == counted
    assert broken()[0].bill == exactly(0, 0)


def test_bill_is_read_where_the_gateway_keeps_it(tmp_path: Path) -> None:
    seen = Seen(200, {"x-cost": "$0.25"}, b'data: {"usage":null}\n\ndata: {"usage":{"cost":0.5}}\n\ndata: [DONE]\n\n')
    spent = tmp_path / "spent"

    async def read_by(line: str) -> Charge:
        bill = source(line, PRICE, 0)
        spent.write_text("1.5")
        before = await bill.before()
        spent.write_text("1.75")
        return await bill.after(seen, before)

    program = f"{sys.executable} -c \"print(open('{spent}').read())\""
    assert asyncio.run(read_by("usage")).usd is None
    assert asyncio.run(read_by("header:X-Cost")).usd == 0.25
    assert asyncio.run(read_by("header:X-Other")).usd is None
    assert asyncio.run(read_by("field:cost")).usd == 0.5
    assert asyncio.run(read_by(f"command:{program}")).usd == 0.25


@pytest.mark.parametrize("line", ["", "header", "ledger:x", "command:false", "command:echo much"])
def test_bill_that_cannot_be_read_is_said_to_be(line: str) -> None:
    with pytest.raises(BillError):
        asyncio.run(source(line, PRICE, 0).before())
