"""The lines of requests on their way to the log, and what is logged beside them."""

import asyncio
import json
import logging
import subprocess
import sys

import msgspec
import pytest

from tollbridge import telemetry
from tollbridge.telemetry import _JsonLine


@pytest.mark.parametrize(
    "said", ["a\nb", "a\r\n{}", '{"level":"error"}', "\x1b[31mred", "\u2028", "\x00", '"', "\udc80", "é🎉"], ids=repr
)
def test_what_is_logged_is_one_line_of_json_whatever_stands_in_it(said: str) -> None:
    """J17."""
    record = logging.LogRecord("tollbridge", logging.WARNING, __file__, 1, "it says %s", (said,), None)
    line = _JsonLine().format(record)
    assert line.isprintable()
    read = msgspec.json.decode(line)
    assert (read["level"], read["logger"]) == ("warning", "tollbridge")
    assert read["message"].startswith("it says ")


def test_an_exception_stands_in_its_line() -> None:
    try:
        raise ValueError("a\nb")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("tollbridge", logging.ERROR, __file__, 1, "request %s failed", ("req_1",), info)
    read = msgspec.json.decode(_JsonLine().format(record))
    assert read["message"] == "request req_1 failed"
    assert "ValueError: a\nb" in read["exception"]


def test_calls_of_the_http_client_are_no_lines_but_its_warnings_are() -> None:
    """In a process of its own: log_json() is for the whole process."""
    program = (
        "import logging; from tollbridge.telemetry import log_json; log_json(); log = logging.getLogger('httpx2');"
        "log.info('HTTP Request: GET'); log.warning('odd'); logging.getLogger('tollbridge').info('begun')"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert [msgspec.json.decode(line)["message"] for line in done.stderr.splitlines()] == ["odd", "begun"]


def test_lines_are_written_together_and_what_is_too_much_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "FLUSH_S", 0.01)
    monkeypatch.setattr(telemetry, "MOST_WAITING", 3)
    written: list[list[str]] = []

    def write(text: bytes) -> None:
        written.append([json.loads(line)["request_id"] for line in text.splitlines()])

    async def main() -> int:
        log = telemetry.RequestLog(write)
        for batch in ("abcde", "fg"):
            for name in batch:
                log.add(telemetry.RequestLine(0, name, 200, 1, "/v1/models"))
            await asyncio.sleep(0.05)
        log.add(telemetry.RequestLine(0, "h", 200, 1, "/v1/models"))
        log.flush()  # somebody asks for the metrics
        log.add(telemetry.RequestLine(0, "i", 200, 1, "/v1/models"))
        await asyncio.sleep(0.05)
        return log.dropped

    assert asyncio.run(main()) == 2
    assert written == [["a", "b", "c"], ["f", "g"], ["h"], ["i"]]
