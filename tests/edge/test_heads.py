"""What is read of the headers of a request."""

import pytest

from tollbridge.edge.heads import check_media, read_cap, read_head
from tollbridge.errors import InvalidRequest

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
