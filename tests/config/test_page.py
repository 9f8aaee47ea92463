"""What the pages about the configuration show, works."""

import re
from pathlib import Path

import pytest

from tollbridge.config import Source, read
from tollbridge.errors import ConfigError

OPERATE = Path(__file__).parents[2] / "docs" / "operate"
PAGE = (OPERATE / "configuration.md").read_text()
PROVIDERS = (OPERATE / "providers.md").read_text()
NEEDED = {
    **dict.fromkeys(("DEEPSEEK_API_KEY", "GROQ_API_KEY", "AZURE_OPENAI_API_KEY", "AWS_BEARER_TOKEN_BEDROCK"), "k"),
    "DATABASE_URL": "postgresql://db/x",
}


def blocks(language: str, page: str = PAGE) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


@pytest.mark.parametrize("text", [*blocks("toml"), *blocks("toml", PROVIDERS)])
def test_every_example_can_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "secret").write_text("0123456789abcdefghijklmnopqrstuv")
    file = tmp_path / "tollbridge.toml"
    file.write_text(re.sub(r"file:/run/secrets/\w+", f"file:{tmp_path}/secret", text))
    read(Source(file), NEEDED)


def test_every_variable_is_one() -> None:
    lines = [line.partition("=") for block in blocks("sh") for line in block.splitlines()]
    settings = read(Source(), {name: value.strip("'") for name, _, value in lines})
    assert settings.port == 8080
    assert settings.plans["free"].models == ("deepseek-*",)


def test_the_mistakes_are_told_like_that(tmp_path: Path) -> None:
    file = tmp_path / "tollbridge.toml"
    file.write_text('\n\n[billing]\ncost_cap = "5"\n')
    told = []
    for source, environ in ((Source(file), {}), (Source(), {"TOLLBRIDGE_PORT": "x"})):
        with pytest.raises(ConfigError) as caught:
            read(source, environ)
        told.append(f"tollbridge: {caught.value}".replace(str(file), file.name))
    assert blocks("text")[0].splitlines() == told
