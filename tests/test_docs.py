"""The documents agree with the program and with each other."""

import re
from pathlib import Path

import pytest
from tests.syntax import ROOT
from tests.test_secrets_not_committed import committed

from tollbridge.config import Source, read
from tools import docs

SECRET = "5f0c1c4e9d9c4f0e8a520e6f6a3c1b7d5f0c1c4e9d9c4f0e8a520e6f6a3c1b7d"


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


def examples() -> list[tuple[str, str]]:
    """Each configuration that a page shows: page and place, text."""
    found = []
    for page in pages():
        blocks = re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        found += [(f"{page.relative_to(ROOT)} {number}", block) for number, block in enumerate(blocks, 1)]
    return found


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in examples()])
def test_every_configuration_that_is_shown_is_accepted(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is pasted, with the variables and files that it names."""
    own = {"STRIPE_SECRET_KEY": f"sk_test_{SECRET}", "STRIPE_WEBHOOK_SECRET": f"whsec_{SECRET}"}
    own["DATABASE_URL"] = "postgresql://tollbridge:password@db.internal/tollbridge"
    for name in re.findall(r'"env:(\w+)"', text):
        monkeypatch.setenv(name, own.get(name, SECRET))
    for name in ("AZURE_OPENAI_API_KEY", "AWS_BEARER_TOKEN_BEDROCK"):
        monkeypatch.setenv(name, SECRET)
    (tmp_path / "secret").write_text(SECRET)
    file = tmp_path / "tollbridge.toml"
    file.write_text(re.sub(r'"file:[^"]+"', '"file:secret"', text))
    read(Source(file))
