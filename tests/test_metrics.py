import asyncio
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.site import Site, always, by_kind, chat, completion, http, run, says, stream, streams

from tollbridge.metrics import _MS, METRICS, MOST_KINDS, Traffic, render
from tollbridge.telemetry import RequestLine

SAMPLE = re.compile(r'(?P<name>[a-z_]+)(?P<labels>\{(?:[a-z]+="(?:[^"\\]|\\.)*",?)+\})? (?P<value>-?[0-9.e+-]+|\+Inf)')
TOKEN = 'metrics_token = "test-token-of-metrics"\n'


def read(text: str) -> dict[str, float]:
    """Samples by name and labels. Fails on a line that is neither a sample nor a comment."""
    found = {}
    for line in text.splitlines():
        if not line.startswith("# "):
            match = SAMPLE.fullmatch(line)
            assert match is not None, line
            found[match["name"] + (match["labels"] or "")] = float(match["value"])
    return found


def line(**fields: Any) -> RequestLine:
    return RequestLine(**{"ts": 1, "request_id": "req_1", "status": 200, "ms": 7, "path": "/v1/responses", **fields})


def test_what_was_answered_is_counted_once_it_is_asked_for() -> None:
    async def test() -> None:
        async with Site(always(by_kind(says(completion(usage=(10, 5))), streams(stream(usage=(3, 2)))))) as site:
            await site.post("/v1/chat/completions", chat())
            await site.post("/v1/chat/completions", chat(stream=True))
            await site.post("/v1/chat/completions", {**chat(), "model": "none"})
            await site.settled(2)
            reply = await site.get("/metrics", {"authorization": ""})
            assert reply.status == 200
            assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            assert reply.headers["x-request-id"].startswith("req_")
            found = read(reply.body.decode())
            chats = 'endpoint="/v1/chat/completions"'
            assert found[f'tollbridge_requests_total{{{chats},status="200"}}'] == 2
            assert found[f'tollbridge_requests_total{{{chats},status="404"}}'] == 1
            assert found[f'tollbridge_request_seconds_bucket{{{chats},le="+Inf"}}'] == 3
            assert found['tollbridge_calls_total{model="m",upstream="up",outcome="completed"}'] == 2
            assert found['tollbridge_tokens_total{model="m",kind="input"}'] == 13
            assert found['tollbridge_tokens_total{model="m",kind="output"}'] == 7
            charged = sum(row["charge"] for row in await site.usage())
            assert found['tollbridge_charged_nanousd_total{model="m"}'] == charged > 0
            assert found['tollbridge_cost_nanousd_total{upstream="up"}'] == charged
            assert found['tollbridge_first_byte_seconds_count{upstream="up"}'] == 1
            assert found['tollbridge_upstream_attempts_total{upstream="up"}'] == 2
            assert found['tollbridge_upstream_state{upstream="up"}'] == 0
            # The first failure is an increase, which the alert asks for.
            for kind in ("credential", "out_of_credit"):
                assert found[f'tollbridge_upstream_failures_total{{upstream="up",kind="{kind}"}}'] == 0
            assert found['tollbridge_credit_nanousd{kind="promo"}'] == await site.balance()
            assert found['tollbridge_credit_nanousd{kind="held"}'] == 0
            assert found["tollbridge_ledger_operations_total"] >= 4
            assert found["tollbridge_processes"] == 1
            assert found["process_resident_memory_bytes"] > 10_000_000

    run(test())


def test_every_metric_of_the_table_is_told_and_no_other() -> None:
    async def test() -> set[str]:
        async with Site(always(by_kind(says(http(500, b"{}")), streams(stream())))) as site:
            await site.post("/v1/chat/completions", chat())
            await site.post("/v1/chat/completions", chat(stream=True))
            await site.gateway._jobs.prove()  # type: ignore[union-attr]
            site.gateway._traffic.add([line(would_refuse="tokens")])
            text = (await site.get("/metrics")).body.decode()
            types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
            assert types == {metric.name: metric.type for metric in METRICS if metric.name in types}
            return set(types)

    told = run(test())
    assert told == {metric.name for metric in METRICS}


def test_only_this_machine_may_ask_and_for_nobody_else() -> None:
    async def test() -> None:
        async with Site(always(says(completion()))) as site:
            assert (await site.get("/metrics")).status == 200
            for name in ("x-forwarded-for", "forwarded", "x-real-ip", "via"):
                refused = await site.get("/metrics", {name: "127.0.0.1"})
                assert (refused.status, refused.body) == (404, b"")
            posted = await site.post("/metrics", b"{}")
            assert (posted.status, posted.body) == (405, b"")

    run(test())


def test_behind_a_public_address_nobody_may_ask_without_a_token() -> None:
    async def test() -> None:
        async with Site(always(says(completion())), config='public_url = "https://api.example.com"\n') as site:
            assert (await site.get("/metrics")).status == 404

    run(test())


def test_with_a_token_only_the_token_counts() -> None:
    async def test() -> None:
        async with Site(always(says(completion())), config=TOKEN) as site:
            for given in ("", "Bearer ", "Bearer wrong", f"Bearer {site.key}", "test-token-of-metrics"):
                refused = await site.get("/metrics", {"authorization": given})
                assert (refused.status, refused.body) == (401, b"")
            right = {"authorization": "Bearer test-token-of-metrics", "x-forwarded-for": "192.0.2.1"}
            assert (await site.get("/metrics", right)).status == 200
            site.file.write_text(site.file.read_text().replace("of-metrics", "of-others"))
            await site.gateway.reload()
            assert (await site.get("/metrics", right)).status == 401

    run(test())


def test_a_scrape_names_nobody() -> None:
    async def test() -> None:
        async with Site(always(says(completion()))) as site:
            secret = "tb_live_wrong-place"
            await site.get(f"/v1/{secret}")
            await site.get("/v1/models", {"authorization": f"Bearer {secret}"})
            text = (await site.get("/metrics")).body.decode()
            assert secret not in text
            assert site.key not in text
            assert 'status="401"' in text

    run(test())


def test_a_database_that_is_away_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with Site(always(says(completion()))) as site:
            never = asyncio.Event()
            monkeypatch.setattr("tollbridge.metrics.GAUGES_WITHIN_S", 0.05)
            monkeypatch.setattr("tollbridge.metrics.gauges", lambda _: never.wait())
            found = read((await site.get("/metrics")).body.decode())
            assert found["tollbridge_database_up"] == 0
            assert "tollbridge_processes" not in found
            never.set()

    run(test())


def test_labels_do_not_grow_without_end() -> None:
    traffic = Traffic()
    traffic.add([line(outcome="completed", model=f"m{n}", prompt_tokens=1) for n in range(MOST_KINDS + 5)])
    inputs = {labels[0]: number for name, labels, number in traffic.samples() if labels[1:] == ("input",)}
    assert len(inputs) == MOST_KINDS + 1
    assert sum(inputs.values()) == MOST_KINDS + 5
    assert inputs["other"] == 5


def test_times_fall_into_the_bucket_that_holds_them() -> None:
    traffic = Traffic()
    traffic.add([line(ms=ms) for ms in (0, _MS[0], _MS[0] + 1, _MS[-1] + 1)])
    found = read(render(traffic.samples(), traffic.histograms()).decode())
    bucket = 'tollbridge_request_seconds_bucket{{endpoint="/v1/responses",le="{}"}}'
    assert found[bucket.format("0.05")] == 2
    assert found[bucket.format("0.1")] == 3
    assert found[bucket.format("300.0")] == 3
    assert found[bucket.format("+Inf")] == 4
    assert found['tollbridge_request_seconds_sum{endpoint="/v1/responses"}'] == (2 * _MS[0] + _MS[-1] + 2) / 1000


def test_label_values_are_escaped() -> None:
    told = render([("tollbridge_would_refuse_total", ('a"b\\c\nd',), 1)], ()).decode()
    assert told.splitlines()[-1] == r'tollbridge_would_refuse_total{limit="a\"b\\c\nd"} 1'


def test_workers_of_one_address_answer_for_each_other(tmp_path: Path) -> None:
    async def test() -> None:
        async with Site(always(says(completion()))) as one, Site(always(says(completion()))) as other:
            for number, site in enumerate((one, other), 1):
                await site.gateway._metrics.share(tmp_path / "metrics", number)
                for _ in range(number):
                    await site.post("/v1/chat/completions", chat())
            for site in (one, other):
                text = (await site.get("/metrics")).body.decode()
                found = read(text)
                attempts = [found[f'tollbridge_upstream_attempts_total{{upstream="up",process="{n}"}}'] for n in (1, 2)]
                assert attempts == [1, 2]
                chats = 'endpoint="/v1/chat/completions"'
                assert found[f'tollbridge_request_seconds_bucket{{{chats},process="2",le="+Inf"}}'] == 2
                assert text.count("# TYPE tollbridge_requests_total counter") == 1
            await other.gateway._metrics.close()
            alone = (await one.get("/metrics")).body.decode()
            assert 'process="2"' not in alone
            assert 'process="1"' in alone

    run(test())


def test_a_worker_that_has_gone_or_hangs_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        monkeypatch.setattr("tollbridge.metrics.SIBLING_WITHIN_S", 0.2)
        async with Site(always(says(completion()))) as site:
            folder = tmp_path / "metrics"
            await site.gateway._metrics.share(folder, 1)
            with socket.socket(socket.AF_UNIX) as hanging, socket.socket(socket.AF_UNIX) as dead:
                hanging.bind(str(folder / "2.sock"))
                hanging.listen()
                dead.bind(str(folder / "3.sock"))
                assert (await site.get("/metrics")).status == 200
                # It may be one that only begins to listen.
                assert (folder / "3.sock").exists()
                os.utime(folder / "3.sock", (0, 0))
                assert (await site.get("/metrics")).status == 200
                assert not (folder / "3.sock").exists()
                assert (folder / "2.sock").exists()

    run(test())


def test_a_folder_whose_name_is_too_long_leaves_each_worker_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with Site(always(says(completion()))) as site:
            (tmp_path / ("x" * 100)).mkdir()
            await site.gateway._metrics.share(tmp_path / ("x" * 100), 1)
            assert (await site.get("/metrics")).status == 200

    run(test())
    assert "only the worker that answers" in caplog.text
