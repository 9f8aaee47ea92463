"""Parts of messages as OpenAI writes them."""

import pytest

from tollbridge.wire.conversation import Document
from tollbridge.wire.openai_parts import (
    CacheMark,
    Grammar,
    cache_of,
    custom_tool,
    document_of,
    drawn_image,
    image_of,
    split_data_url,
)

JPEG, PNG, WEBP, GIF = "/9j/4AAQSkZJRg==", "iVBORw0KGgo=", "UklGRiIAAABXRUJQ", "R0lGODlhAQAB"


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("data:image/png;base64,AAAA", ("image/png", "AAAA")),
        ("DATA:Image/PNG;charset=utf-8;name=a b.png;BASE64,AAAA", ("image/png", "AAAA")),
        ("data:;base64,AAAA", ("", "AAAA")),
        ("data:image/png;base64,", ("image/png", "")),
        ("data:image/png,AAAA", None),
        ("data:image/png;base64;a=b,AAAA", None),
        ("data:image/png;a;base64,AAAA", None),
        ("https://example.com/data:image/png;base64,AAAA", None),
    ],
)
def test_a_data_url_is_its_type_and_its_base64(url: str, found: tuple[str, str] | None) -> None:
    assert split_data_url(url) == found


def test_no_more_parameters_are_read_than_anybody_sends() -> None:
    """Millions would take seconds to read."""
    read = [split_data_url(f"data:image/png{';a=b' * count};base64,AAAA") is not None for count in (1, 16, 17, 100)]
    assert read == [True, True, False, False]


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        (f"data:image/png;base64,{PNG}", "image/png"),
        (f"data:;base64,{JPEG}", "image/jpeg"),
        (f"data:image/png;base64,{JPEG}", "image/jpeg"),
        (f"data:image/jpg;base64,{JPEG}", "image/jpeg"),
        (f"data:image/jpeg;base64,{WEBP}", "image/webp"),
        (f"data:application/octet-stream;base64,{GIF}", "image/gif"),
        ("data:image/jpg;base64,AAAA", "image/jpeg"),
        ("data:image/heic;base64,AAAA", "image/heic"),
        ("data:;base64,AAAA", "image/png"),
    ],
)
def test_a_picture_is_what_its_bytes_are(url: str, kind: str) -> None:
    """Anthropic: "The image was specified using the image/png media type, but appears to be image/jpeg"."""
    assert image_of(url, None, None, "url").media_type == kind
    assert drawn_image(url).media_type == kind


def test_a_picture_may_stand_at_any_address_of_the_web() -> None:
    assert [image_of(url, None, None, "url").url for url in ("http://a", "https://a")] == ["http://a", "https://a"]


@pytest.mark.parametrize(
    ("data", "title", "found"),
    [
        ("data:text/csv;base64,AAAA", "a.txt", Document(data="AAAA", media_type="text/csv", title="a.txt")),
        ("data:;base64,AAAA", "a.txt", Document(data="AAAA", media_type="text/plain", title="a.txt")),
        ("AAAA", "a.b.TXT", Document(data="AAAA", media_type="text/plain", title="a.b.TXT")),
        ("AAAA", "", Document(data="AAAA", media_type="application/pdf")),
        ("https://a/b.txt", "t", Document(url="https://a/b.txt", title="t")),
        ("http://a/b.txt", "t", Document(url="http://a/b.txt", title="t")),
    ],
)
def test_a_file_is_its_data_or_its_address_and_of_a_type(data: str, title: str, found: Document) -> None:
    assert document_of(data, title, None) == found
    assert document_of(data, title, "5m").cache == "5m"


@pytest.mark.parametrize(
    ("control", "mark", "cache"),
    [
        (None, None, None),
        (CacheMark(type="ephemeral"), None, "5m"),
        (CacheMark(ttl="5m"), CacheMark(), "5m"),
        (CacheMark(ttl="1h"), None, "1h"),
        (None, CacheMark(mode="explicit"), "1h"),
    ],
)
def test_a_mark_says_how_long_to_cache(control: CacheMark | None, mark: CacheMark | None, cache: str | None) -> None:
    assert cache_of(control, mark) == cache


@pytest.mark.parametrize(
    ("taken", "more"),
    [
        (None, ""),
        (Grammar(type="text"), ""),
        (
            Grammar(type="grammar", syntax="lark", definition="start: x"),
            "\n\n`input` must follow this lark grammar:\nstart: x",
        ),
        (
            Grammar(type="grammar", grammar=Grammar(syntax="regex", definition="a+")),
            "\n\n`input` must follow this regex grammar:\na+",
        ),
    ],
)
def test_a_custom_tool_says_what_it_takes(taken: Grammar | None, more: str) -> None:
    assert custom_tool("patch", "Patches", taken).description == "Patches" + more
