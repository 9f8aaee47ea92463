"""What is logged beside the lines of requests."""

import logging

import msgspec
import pytest

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
