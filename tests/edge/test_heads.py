"""What is read of the headers of a request."""

import msgspec
import pytest

from tollbridge.edge.heads import Names, check_head, check_media, listable, read_cap, read_head
from tollbridge.errors import InvalidRequest, UnsupportedMediaType

CAP = b"x-own-max-cost-usd"


def test_cap_beside_other_headers_that_repeat_is_read() -> None:
    head = read_head([(b"accept", b"a"), (CAP, b"0.5"), (b"accept", b"b")], CAP)
    assert read_cap(head.max_cost, CAP) == 500_000_000


@pytest.mark.parametrize("values", [[b"0.5", b"9"], [b"0.5", b"0.5"], [b"0.5", b""], [b"0.5,9"]])
def test_more_than_one_cap_is_refused_by_name(values: list[bytes]) -> None:
    head = read_head([(b"accept", b"a"), *((CAP, value) for value in values)], CAP)
    with pytest.raises(InvalidRequest, match="Send x-own-max-cost-usd once"):
        read_cap(head.max_cost, CAP)


def test_lines_of_several_proxies_are_one_list_of_addresses() -> None:
    name = b"x-forwarded-for"
    head = read_head([(name, b"6.6.6.6"), (b"accept", b"a"), (name, b"203.0.113.9, 10.0.0.1")], CAP)
    assert head.forwarded == b"6.6.6.6, 203.0.113.9, 10.0.0.1"


@pytest.mark.parametrize("kind", [b"application/json", b"Application/JSON", b"application/json; charset=utf-8", b"a/b"])
@pytest.mark.parametrize("more", [None, (b"content-encoding", b"gzip"), (CAP, b"0.5"), (b"accept", b"x")])
def test_a_plain_head_has_plain_json_and_no_cap(kind: bytes, more: tuple[bytes, bytes] | None) -> None:
    head = read_head([(b"content-type", kind), *([] if more is None else [more])], CAP)
    assert head.is_plain == (kind == b"application/json" and (more is None or more[0] == b"accept"))
    if head.is_plain:
        check_media(head)
        assert read_cap(head.max_cost, CAP) is None


def test_each_header_is_read_as_what_it_is() -> None:
    fields = {
        "authorization": b"authorization",
        "api_key": b"x-api-key",
        "content_type": b"content-type",
        "content_encoding": b"content-encoding",
        "max_cost": CAP,
        "origin": b"origin",
        "forwarded": b"x-forwarded-for",
        "idempotency_key": b"idempotency-key",
        "beta": b"anthropic-beta",
    }
    head = read_head([(name, b"its " + name) for name in fields.values()], CAP)
    for field, name in fields.items():
        assert getattr(head, field) == b"its " + name
        assert getattr(read_head([], CAP), field) is None
    assert [read_head(each, CAP).is_anthropic for each in ([], [(b"anthropic-version", b"x")])] == [False, True]


def test_our_own_headers_have_the_names_that_are_documented_in_the_operators_brand() -> None:
    assert msgspec.structs.asdict(Names.of("X-Own")) == {
        "cost": b"X-Own-Upstream-Cost-USD: ",
        "charged": b"X-Own-Charged-USD: ",
        "balance": b"X-Own-Balance-USD: ",
        "basis": b"X-Own-Cost-Basis: ",
        "generation": b"X-Own-Generation-Id: ",
        "limit": b"X-Own-Max-Tokens-Applied: ",
        "dropped": b"X-Own-Dropped-Fields: ",
        "tried": b"X-Own-Attempts: ",
        "route": b"X-Own-Provider: ",
        "replayed": b"X-Own-Idempotent-Replayed: ",
        "max_cost": CAP,
    }


def test_a_list_of_names_is_no_way_to_write_another_header() -> None:
    assert listable(["a b", "c", "a b", "\u00fc\u4e2d", "x\r\ny: z", "~\x7f\0"]) == b"a b, c, ??, x??y: z, ~??"
    assert len(listable(["x" * 600])) == 512


@pytest.mark.parametrize(
    ("kind", "encoding", "is_good"),
    [
        *((b"application/json", None, True), (b"Application/JSON ; charset=utf-8", b"Identity", True)),
        *((None, None, False), (b"text/plain", None, False), (b"", None, False), (b"application/jsonx", None, False)),
        (b"application/json", b"gzip", False),
    ],
)
def test_a_body_is_json_as_it_is(kind: bytes | None, encoding: bytes | None, is_good: bool) -> None:
    named = {b"content-type": kind, b"content-encoding": encoding, CAP: b"\t0.5 "}
    head = read_head([(name, value) for name, value in named.items() if value is not None], CAP)
    if is_good:
        assert check_head(head, CAP) == 500_000_000
    else:
        with pytest.raises(UnsupportedMediaType):
            check_head(head, CAP)
