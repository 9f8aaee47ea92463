"""What a request's record says, which reports are believed, and how long an answer waits for the books."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tollbridge.core.ledger import Checkpoint, Ended, Noted, Record, Verdict
from tollbridge.core.money import usd_bytes
from tollbridge.core.pricing import Bill, Cause, Ending
from tollbridge.gateway.settlement import MOST_ROUNDS, MOST_SEARCHES, SLACK, Closed, Settlement, _Patience
from tollbridge.gateway.ticket import Attempt
from tollbridge.values import Outcome, Price, Route, Upstream, Usage
from tollbridge.wire.exchange import Receipt

PRICE = Price(input=1, output=1, cache_read=1, cache_write=1, cache_write_1h=1)
HERE = Upstream(
    name="here", provider="here", dialect="openai_chat", base_url="http://h/v1", auth="bearer", credential="", owner=3
)
ROUTE = Route(model="m", upstream=HERE, upstream_model="m", price=PRICE, cost=PRICE, version=17)
METERS = (
    *("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning"),
    *("audio_input", "audio_output", "image_output", "searches"),
)
settlement: Any = object.__new__(Settlement)


@pytest.mark.parametrize("flag", ["estimated", "suspect", "stream", None])
def test_each_field_of_a_record_is_its_own(flag: str | None) -> None:
    meters = {name: number for number, name in enumerate(METERS, 100)}
    usage = msgspec.convert({**meters, "raw": b"{}", "estimated": False, "suspect": False}, Usage)
    if flag in ("estimated", "suspect"):
        usage = msgspec.structs.replace(usage, **{flag: True})
    request = SimpleNamespace(stream=flag == "stream", endpoint="messages")
    attempts = [Attempt(route="there", failed="timeout")]
    ticket = SimpleNamespace(started_at=5, started=time.monotonic() - 2, request=request, attempts=attempts)
    ending = Ending(cause=Cause.CLIENT_LEFT, reported=usage, counted=Usage(), produced=True, finish="length")
    bill = Bill(usage=usage, charged=True, outcome=Outcome.CLIENT_LEFT)
    record = settlement._record(ticket, ROUTE, bill, ending, 499, 33, 44)
    assert 2_000 <= record.duration_ms < 60_000
    assert record == Record(
        started_at=5,
        duration_ms=record.duration_ms,
        price_version=17,
        outcome=Outcome.CLIENT_LEFT,
        status=499,
        first_byte_ms=33,
        **meters,
        cost=44,
        streamed=flag == "stream",
        estimated=flag == "estimated",
        suspect=flag == "suspect",
        byok=True,
        endpoint="messages",
        finish="length",
        raw=b"{}",
        attempts=b'[{"route":"there","failed":"timeout"}]',
    )


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("cause", list(Cause))
def test_the_first_byte_of_a_whole_answer_comes_with_the_last(cause: Cause, streams: bool) -> None:
    ending = Ending(cause=cause, reported=None, counted=Usage(), produced=True)
    bill = Bill(usage=Usage(), charged=True, outcome=Outcome.COMPLETED)
    request = SimpleNamespace(stream=streams, endpoint="chat")
    ticket = SimpleNamespace(started_at=5, started=time.monotonic() - 2, request=request, attempts=())
    record = settlement._record(ticket, ROUTE, bill, ending, 200, None, 0)
    came_whole = cause is Cause.FINISHED and not streams
    assert record.first_byte_ms == (record.duration_ms if came_whole else None)


few = st.integers(0, 40)
NOTHING_ELSE = {"searches": 0, "window": 0, "body": 0, "predicted": 0, "has_providers_tools": False}


@given(
    used=st.fixed_dictionaries({name: few for name in METERS if name not in ("reasoning", "searches")}),
    searches=st.sampled_from([0, MOST_SEARCHES, MOST_SEARCHES + 1]),
    window=few,
    body=few,
    limits=st.tuples(few, st.none() | few, st.none() | few),
    choices=st.integers(1, 3),
    predicted=few,
    has_providers_tools=st.booleans(),
)
@example(used={"output": 8}, limits=(4, None, None), choices=1, **NOTHING_ELSE)
@example(used={"output": 9}, limits=(4, None, None), choices=1, **NOTHING_ELSE)
@example(used={"output": 24}, limits=(4, 4, 6), choices=2, **NOTHING_ELSE)
@example(used={"output": 25}, limits=(4, 6, 4), choices=2, **NOTHING_ELSE)
def test_no_more_is_believed_than_was_sent_and_asked_for(
    used: dict[str, int],
    searches: int,
    window: int,
    body: int,
    limits: tuple[int, int | None, int | None],
    choices: int,
    predicted: int,
    has_providers_tools: bool,
) -> None:
    most_written, set_by_money, asked = limits
    ticket = SimpleNamespace(
        model=SimpleNamespace(context_window=window, output_limit=most_written),
        request=SimpleNamespace(body=b"x" * body, offers_providers_tools=lambda: has_providers_tools),
        demand=SimpleNamespace(output_limit=asked, choices=choices, predicted=predicted, read=7),
        limit=set_by_money,
    )
    reported = msgspec.convert({**used, "searches": searches}, Usage)
    limit = max(most_written, set_by_money or 0, asked or 0)
    credible = settlement.credible(ticket, reported)
    assert (credible is not None) == (
        reported.prompt <= max(body, window * (MOST_ROUNDS if has_providers_tools else 1))
        and (reported.completion <= most_written or reported.completion <= (limit * choices + predicted) * SLACK)
        and searches <= MOST_SEARCHES
    )
    if credible is not None and reported.completion and not reported.prompt:
        # An answer to nothing gets the prompt that was counted.
        assert credible == msgspec.structs.replace(reported, input=7, estimated=True)
    else:
        assert credible in (None, reported)


def test_a_checkpoint_is_never_above_the_cap() -> None:
    noted: list[Checkpoint] = []
    here: Any = object.__new__(Settlement)
    here._ledger = SimpleNamespace(submit=noted.append)
    request = SimpleNamespace(stream=True, endpoint="chat")
    caller = SimpleNamespace(account_id=1, key_id=2)
    ticket = SimpleNamespace(
        started_at=5,
        started=time.monotonic(),
        request=request,
        attempts=(),
        hold=3,
        caller=caller,
        cap=20,
    )
    route = msgspec.structs.replace(ROUTE, price=msgspec.structs.replace(PRICE, output=1_000))  # a nano-USD a token
    for output in (10, 20, 21):
        here.checkpoint(ticket, route, Usage(output=output))
    assert [(each.hold, each.charge, each.record.output) for each in noted] == [(3, 10, 10), (3, 20, 20)]
    # It is on the books of whoever made the call, as what a gateway that fails in the middle would charge.
    for each in noted:
        record = each.record
        assert (each.account_id, each.key_id, record.outcome) == (1, 2, Outcome.OUR_FAULT)
        assert (record.status, record.first_byte_ms, record.cost) == (200, None, 1)


def told(verdict: Verdict | None, charge: int, *, estimated: bool = False) -> Receipt:
    """The receipt of a call with a cap of 20 that cost 9; `verdict` None: the books are silent."""

    async def ask() -> Receipt:
        here: Any = object.__new__(Settlement)
        here._patience = _Patience(0.01)
        settled: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        if verdict is not None:
            settled.set_result(verdict)
        usage = Usage(input=1, estimated=estimated)
        bill = Bill(usage=usage, charged=True, outcome=Outcome.COMPLETED)
        ticket: Any = SimpleNamespace(cap=20)
        receipt = await here.receipt(Closed(ticket, bill, 1, charge, 9, 4, False, settled))
        assert isinstance(receipt, Receipt)
        return receipt

    return asyncio.run(ask())


def test_a_receipt_says_what_was_charged_and_what_it_cost() -> None:
    receipt = told(Ended(charged=7, promo=0, loss=8, available=5), 15)
    assert (receipt.charge, receipt.cost, receipt.balance) == (usd_bytes(7), usd_bytes(9), usd_bytes(5))
    assert (receipt.read_cost, receipt.written_cost) == (b"0.000000004", b"0.000000005")
    at_cost = told(Ended(charged=9, promo=0, loss=0, available=5), 9)
    assert (at_cost.charge, at_cost.cost) == (usd_bytes(9), usd_bytes(9))
    assert (receipt.usage, told(None, 1, estimated=True).usage) == (None, Usage(input=1, estimated=True))


def test_while_the_books_are_silent_a_receipt_says_what_is_due_up_to_the_cap() -> None:
    receipts = [told(None, charge) for charge in (19, 20, 21)]
    assert [receipt.charge for receipt in receipts] == [usd_bytes(19), usd_bytes(20), usd_bytes(20)]
    assert [receipt.balance for receipt in receipts] == [None] * 3


def test_a_wait_for_the_books_ends_in_time_and_never_early() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        patience = _Patience(0.2)

        async def wait(after: float) -> float:
            await asyncio.sleep(after)
            began = loop.time()
            with pytest.raises(TimeoutError):
                await patience.watch(loop.create_future())
            return loop.time() - began

        waited = await asyncio.gather(*(wait(number * 0.017) for number in range(20)))
        assert min(waited) >= 0.2
        # One stretch late at most, and what a slow machine adds to that.
        assert max(waited) < 2
        # It begins anew after nobody waited.
        await asyncio.sleep(0.1)
        assert patience._timer is None
        assert 0.2 <= await wait(0) < 2

    asyncio.run(test())


def test_a_verdict_in_time_is_what_was_waited_for() -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        patience = _Patience(0.05)
        late: asyncio.Future[Verdict] = loop.create_future()
        known: asyncio.Future[Verdict] = loop.create_future()
        known.set_result(Noted())
        loop.call_later(0.01, late.set_result, Noted())
        assert await patience.watch(known) == await patience.watch(late) == Noted()
        await asyncio.sleep(0.1)  # its stretch is over, and nothing comes of it
        assert late.result() == Noted()

    asyncio.run(test())
