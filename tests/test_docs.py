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


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    inside = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    assert [link for link in inside if not (page.parent / link).exists()] == []


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = sorted(int(page.name[:4]) for page in pages() if page.parent.name == "decisions")
    assert numbers == list(range(1, len(numbers) + 1))
