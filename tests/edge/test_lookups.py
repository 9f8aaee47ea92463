"""What is told of one request: each field from its own number."""

import json
from typing import Any

import msgspec
import pytest

from tollbridge.core.ledger import Record
from tollbridge.edge.lookups import _NOT_OF_A_REQUEST, OUTCOME_TEXTS, _generation
from tollbridge.values import Meters, Outcome

METERS = {name: number for number, name in enumerate(Meters.__struct_fields__, 101)}
FAILED = b'[{"route":"there/m","failed":"timeout"},{"route":"up/m","failed":"server_error","status":503,"ms":7}]'


def told(flag: str = "", **fields: Any) -> dict[str, Any]:
    """The answer as a customer reads it. `flag`: the only one that is set."""
    flags = {name: name == flag for name in ("streamed", "estimated", "suspect", "byok")}
    outcome = {"outcome": Outcome.UPSTREAM_DIED, "status": 207, "started_at": 1_700_000_000_005}
    record = {"duration_ms": 5_000, "first_byte_ms": 1_200, "cost": 2_000, "attempts": FAILED, "price_version": 3}
    kept = Record(**{**record, **outcome, **METERS, **flags, **fields})
    found = _generation("id-1", ("m", "up", "upstream-m"), kept, 3_000, settled=flag == "settled")
    return dict(json.loads(msgspec.json.encode(found)))


@pytest.mark.parametrize("flag", ["streamed", "estimated", "suspect", "byok", "settled"])
def test_each_field_of_a_request_is_its_own(flag: str) -> None:
    read, written = 101 + 102 + 103 + 104 + 107, 105 + 108 + 109
    assert told(flag) == {
        "id": "id-1",
        "model": "m",
        "provider_name": "up",
        "route": "up/upstream-m",
        "created_at": "2023-11-14T22:13:20.005+00:00",
        **dict.fromkeys(("total_cost", "usage", "charge"), 0.000003),
        **dict.fromkeys(("cost", "upstream_inference_cost"), 0.000002),
        "is_byok": flag == "byok",
        "settled": flag == "settled",
        "streamed": flag == "streamed",
        "cancelled": False,
        "outcome": "upstream_died",
        "outcome_text": OUTCOME_TEXTS[Outcome.UPSTREAM_DIED],
        "status": 207,
        "latency": 5_000,
        # Of an answer that came all at once, the whole time is that of its making.
        "generation_time": 3_800 if flag == "streamed" else 5_000,
        "time_to_first_token": 1_200 if flag == "streamed" else None,
        "tokens_prompt": read,
        "tokens_completion": written,
        "native_tokens_prompt": read,
        "native_tokens_completion": written,
        "native_tokens_reasoning": METERS["reasoning"],
        "native_tokens_cached": METERS["cache_read"],
        "native_tokens_completion_images": METERS["image_output"],
        "num_search_results": METERS["searches"],
        "tokens": METERS,
        "estimated": flag == "estimated",
        "suspect": flag == "suspect",
        "attempts": [
            {"route": "there/m", "error": "timeout", "status": None, "ms": 0},
            {"route": "up/m", "error": "server_error", "status": 503, "ms": 7},
        ],
        # OpenRouter's SDKs want to read these.
        "api_type": "completions",
        "data_region": "global",
        "origin": "",
        **{name: None for name, value in _NOT_OF_A_REQUEST.items() if value is None},
    }


def test_a_stream_without_a_first_byte_took_all_its_time_and_tried_nothing_else() -> None:
    found = told("streamed", first_byte_ms=None, attempts=None, outcome=Outcome.CLIENT_LEFT)
    assert (found["time_to_first_token"], found["generation_time"]) == (None, 5_000)
    assert (found["attempts"], found["cancelled"]) == ([], True)


def test_each_outcome_has_words() -> None:
    texts = [told(outcome=outcome)["outcome_text"] for outcome in Outcome]
    assert len(set(texts)) == len(Outcome)
