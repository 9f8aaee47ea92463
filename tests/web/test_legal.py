"""The operator's texts, and what stands there without them."""

from pathlib import Path

import pytest
from tests.gateway.site import run
from tests.web.payloads import PAYLOADS
from tests.web.visitors import Visitor, house, shown

from tollbridge.config import Source, read
from tollbridge.errors import ConfigError

NAMES = ("terms", "privacy", "refunds", "contact")


def test_without_a_text_a_page_says_what_is_missing() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            for name in NAMES:
                response = await visitor.get(f"/{name}")
                text = shown(response)
                assert "This page is not written yet" in text
                assert f'[pages] {name} = "{name}.md"' in text
                assert '<meta name="robots" content="noindex">' in response.text

    run(test())


def test_the_operators_text_is_shown_and_never_runs(tmp_path: Path) -> None:
    """J7."""
    file = tmp_path / "terms.md"
    file.write_text("# Our terms\n\nBe **kind**.\n\n## Payment\n\n" + "\n\n".join(PAYLOADS), encoding="utf-8")

    async def test() -> None:
        async with house(f'[pages]\nterms = "{file}"') as site, Visitor(site) as visitor:
            response = await visitor.get("/terms")
            text = response.text
            assert "<h1>Our terms</h1>" in text
            assert "<strong>kind</strong>" in text
            assert '<h2 id="payment">' in text
            assert "not written yet" not in text
            assert "noindex" not in text
            main = text[text.find("<main") : text.find("</main>")]
            for begun in ("<script", "<img", "<iframe", "<style", "<base", "<math", "<meta", 'href="javascript'):
                assert begun not in main
            assert PAYLOADS[0] in shown(response)

    run(test())


@pytest.mark.parametrize(("content", "problem"), [(None, "cannot be read"), (b"\xff\xfe", "is not UTF-8 text")])
def test_a_file_that_cannot_be_shown_stops_the_start(tmp_path: Path, content: bytes | None, problem: str) -> None:
    file = tmp_path / "terms.md"
    if content is not None:
        file.write_bytes(content)
    config = tmp_path / "tollbridge.toml"
    config.write_text(f'[pages]\nterms = "{file}"\n')
    with pytest.raises(ConfigError, match=problem) as refused:
        read(Source(path=config), {})
    assert f"{config}:2" in str(refused.value)
