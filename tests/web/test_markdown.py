"""Markdown becomes HTML that holds nothing but what the rules name."""

import pytest
from tests.web.payloads import PAYLOADS

from tollbridge.web import markdown
from tollbridge.web.markdown import Code, Heading


def test_the_title_is_taken_out_and_headings_have_ids_of_their_own() -> None:
    text = markdown.render("# The guide\n\n## Errors\n\na\n\n## Errors\n\n### `402` & more\n")
    assert text.title == "The guide"
    assert "<h1" not in text.html
    assert text.headings == (
        Heading("errors", 2, "Errors"),
        Heading("errors-2", 2, "Errors"),
        Heading("402-more", 3, "402 & more"),
    )
    assert '<h2 id="errors-2">Errors<a class="anchor" href="#errors-2"' in text.html


def test_a_block_of_code_has_its_colours_and_can_be_copied() -> None:
    html = markdown.render('```python\nprint("<b>")\n```\n').html
    assert '<span class="nb">print</span>' in html
    assert "&lt;b&gt;" in html
    assert 'data-copy-from="code-0-0"' in html
    assert 'id="code-0-0"' in html


def test_blocks_that_are_marked_are_one_group_and_others_are_not() -> None:
    source = "```python tab\n1\n```\n\n```sh tab\n2\n```\n\n```json\n3\n```\n\n```toml tab Settings\n4\n```\n"
    html = markdown.render(source).html
    assert html.count('role="tablist"') == 1
    assert html.count('role="tab"') == 2
    assert html.count(" hidden>") == 1
    assert ">Settings</span>" in html


def test_a_language_that_nobody_knows_is_shown_as_it_is() -> None:
    assert markdown.colours(Code("klingon", "a < b")) == "a &lt; b"


def test_a_table_scrolls_by_itself() -> None:
    html = markdown.render("## What <it> costs\n\n| a | b |\n|---|---|\n| 1 | 2 |\n").html
    name = 'aria-label="What &lt;it&gt; costs"'
    assert f'<div class="scroll" role="group" {name} tabindex="0"><table {name} class="table">' in html
    assert html.count('<th scope="col">') == 2
    assert html.rstrip().endswith("</table></div>")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_is_no_markdown_is_shown_as_text(payload: str) -> None:
    """J7."""
    sources = (
        payload,
        f"# {payload}",
        f"## {payload}",
        f"[x]({payload})",
        f"```{payload}\n{payload}\n```",
        f"- `{payload}`",
    )
    for source in sources:
        html = str(markdown.render(source).html)
        for begun in ("<script", "<img", "<svg", "<iframe", "<style", "<base", "<form", "<math", "<meta", "<details"):
            assert begun not in html, source
        assert 'href="javascript' not in html


@pytest.mark.parametrize("link", ["javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,x", "vbscript:x"])
def test_a_link_leads_nowhere_that_runs(link: str) -> None:
    assert "href" not in markdown.render(f"[x]({link})").html
    assert "href" not in markdown.inline(f"[x]({link})")
