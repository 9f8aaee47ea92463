"""A machine with workers, as Prometheus sees it."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.deploy.gates import Gate, Upstream
from tests.deploy.programs import output, program
from tests.deploy.test_image import asked
from tests.gateway.site import CONFIG, always, chat, completion, says
from tests.servers import Postgres, Valkey

pytestmark = pytest.mark.deploy
CALLS = 60


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Upstream(always(says(completion()))) as upstream, Postgres() as server, Valkey() as valkey:
        empty = {"more_providers": "", "more_routes": "", "more": ""}
        models = CONFIG.format(url=upstream.url, dialect="openai_chat", cancel_stops_billing="true", **empty)
        redis = f'redis_url = "redis://127.0.0.1:{valkey.port}/0"\n'
        with server.database() as url:
            top = f'database_url = "{url}"\nworkers = 3\nallow_plain_http = true\n{redis}'
            gate = Gate(tmp_path / "g", top + models)
            try:
                gate.start()
                yield gate
            finally:
                gate.stop()


def test_one_scrape_tells_of_all_workers(gate: Gate) -> None:
    gate.run("account", "create", "a@example.com", "--credit", "100")
    key = gate.run("key", "create", "--account", "a@example.com")
    deadline = time.monotonic() + 60
    while len(set(re.findall(r'process="(\d+)"', scraped(gate)))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    for _ in range(CALLS):  # each on a connection of its own
        assert asked(gate.port, "POST", "/v1/chat/completions", key, chat())[0] == 200
    for _ in range(5):
        text = scraped(gate)
        counts = re.findall(r'^tollbridge_calls_total\{.*process="(\d+)"\} (\d+)$', text, re.MULTILINE)
        assert sum(int(count) for _, count in counts) == CALLS
        assert len(counts) > 1
    told = output(program("promtool"), "check", "metrics", "--extended", text=text)
    assert "tollbridge_calls_total" in told


def scraped(gate: Gate) -> str:
    status, body = asked(gate.port, "GET", "/metrics")
    assert status == 200, json.dumps(status)
    return body.decode()
