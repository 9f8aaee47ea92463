"""How pages write amounts and times, and the files that browsers keep."""

import hashlib
import tomllib
from pathlib import Path

import pytest

from tollbridge.core.addresses import client_address
from tollbridge.errors import NotFound
from tollbridge.web import forms, render
from tollbridge.web.static import FOLDER, FOR_EVER, Static


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.00"),
        (500_000_000, "$0.50"),
        (1_234_567_890_123, "$1,234.567890123"),
        (10_000_000, "$0.01"),
        (123_456, "$0.000123456"),
        (1, "$0.000000001"),
        (-2_500_000_000, "-$2.50"),
    ],
)
def test_amounts_are_shown_to_the_last_digit(nano: int, text: str) -> None:
    assert render.usd(nano) == text


@pytest.mark.parametrize(
    ("passed", "text"),
    [
        (0, "just now"),
        (59_999, "just now"),
        (60_000, "1 minute ago"),
        (7_200_000, "2 hours ago"),
        (90_000_000, "1 day ago"),
    ],
)
def test_times_past(passed: int, text: str) -> None:
    assert render.ago(1_000_000_000, 1_000_000_000 + passed) == text


@pytest.mark.parametrize(
    ("agent", "text"),
    [
        (
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0 Safari/537.36",
            "Chrome on Linux",
        ),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 26_0 like Mac OS X) AppleWebKit/605.1.15 Version/26 Safari/604.1",
            "Safari on iPhone",
        ),
        ("curl/8.14", "curl/8.14"),
        ("", "Unknown"),
    ],
)
def test_browsers_by_their_usual_names(agent: str, text: str) -> None:
    assert render.browser(agent) == text


def test_files_are_kept_for_ever_under_the_digest_of_all_of_them() -> None:
    static = Static()
    url = static.url("app.css")
    assert url == f"/static/{static.version}/app.css"
    packed = static.answer("app.css", static.version, "gzip, br")
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["cache-control"] == FOR_EVER
    assert len(packed.body) < len(static.answer("app.css", static.version, "").body)
    assert static.answer("app.css", "older", "").headers["cache-control"] == "no-cache"
    for name in ("../render.py", "vendor/basecoat.LICENSE", "", "nothing.css"):
        with pytest.raises(NotFound):
            static.answer(name, static.version, "")


def test_vendored_files_are_what_their_list_says_and_have_their_licence() -> None:
    folder = FOLDER / "vendor"
    listed = tomllib.loads((folder / "vendor.toml").read_text())
    files = {each["file"]: each for each in listed["files"]}
    assert {file.name for file in folder.iterdir()} == {
        *files,
        "vendor.toml",
        *(each["licence"] for each in files.values()),
    }
    for name, each in files.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == each["sha256"], name


def test_every_icon_is_on_some_page() -> None:
    web = Path(render.FOLDER).parent
    text = "".join(file.read_text() for file in (*render.FOLDER.rglob("*.html"), *web.glob("*.py")))
    assert [icon.stem for icon in render.FOLDER.glob("icons/*.svg") if f'"{icon.stem}"' not in text] == []


def test_every_template_is_without_inline_script_and_style() -> None:
    for file in Path(render.FOLDER).rglob("*.html"):
        text = file.read_text()
        assert "<style" not in text, file
        assert " style=" not in text, file
        assert "hx-on" not in text, file
        for part in text.split("<script")[1:]:
            assert part.partition("</script>")[0].strip().endswith(">"), file
        for word in text.replace("=", " ").split():
            assert not (word.startswith("on") and word in {"onclick", "onsubmit", "onchange", "onload"}), file


def test_a_form_is_read_strictly() -> None:
    form = forms.parse(b"email=a%40b&empty=&tick=on")
    assert (form["email"], form["empty"], form["missing"], form.flag("tick"), form.flag("missing")) == (
        "a@b",
        "",
        "",
        True,
        False,
    )
    for body in (b"a=%00", b"a=\xff", b"&".join(b"x=1" for _ in range(300)), b"a=%ff"):
        with pytest.raises(Exception, match="could not be read"):
            forms.parse(body)


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "1.2.3.4", "10.0.0.1"),
        ("127.0.0.1", "1.2.3.4", "1.2.3.4"),
        ("127.0.0.1", "6.6.6.6, 1.2.3.4", "1.2.3.4"),
        ("127.0.0.1", "1.2.3.4, 127.0.0.1", "1.2.3.4"),
        ("127.0.0.1", "<script>", "127.0.0.1"),
        ("127.0.0.1", "", "127.0.0.1"),
    ],
)
def test_a_visitors_address_is_believed_from_trusted_proxies_alone(peer: str, forwarded: str, client: str) -> None:
    assert client_address(peer, forwarded, ("127.0.0.1",)) == client
