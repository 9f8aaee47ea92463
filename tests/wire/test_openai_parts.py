"""Parts of messages as OpenAI writes them."""

import pytest

from tollbridge.wire.openai_parts import drawn_image, image_of, split_data_url

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
