"""The documents agree with the program and with each other."""

import re
from pathlib import Path

import pytest
from tests.syntax import ROOT
from tests.test_secrets_not_committed import committed

from tools import docs


@pytest.mark.parametrize("name", docs.PAGES)
def test_a_generated_page_is_what_the_program_says(name: str) -> None:
    assert (docs.PLACE / name).read_text() == docs.PAGES[name](), "run `make docs`"


def pages() -> list[Path]:
    """But for the guide: its links are paths of the site (tests/web/test_docs.py)."""
    return [file for file in committed() if file.suffix == ".md" and file.parent.name != "guide"]


def prose(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """What links to headings of a page end in, as code hosts make it: `before-you-believe-it`."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    inside = [link.partition("#") for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link, _, _ in inside if not (page.parent / link).exists()] == []
    to_headings = [(page.parent / link if link else page, anchor) for link, _, anchor in inside if anchor]
    assert [(file.name, anchor) for file, anchor in to_headings if anchor not in anchors(file)] == []


def test_the_index_names_every_page() -> None:
    index = docs.PLACE.parent / "README.md"
    links = {(index.parent / link).resolve() for link in re.findall(r"\]\(([^)\s#]+)", index.read_text())}
    folder = index.parent
    written = {*folder.glob("*.md"), *folder.glob("operate/*.md"), *folder.glob("reference/*.md")} - {index}
    assert sorted(page.name for page in written if page.resolve() not in links) == []


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = sorted(int(page.name[:4]) for page in pages() if page.parent.name == "decisions")
    assert numbers == list(range(1, len(numbers) + 1))
