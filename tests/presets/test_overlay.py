"""A preset lies under what the operator says, on the command line, in the environment and in the file."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.cli.test_serve import Gateway

from tollbridge.config import Settings, Source, read
from tollbridge.config.reading import SHIPPED_PRESETS
from tollbridge.config.table import PRESETS
from tollbridge.errors import ConfigError
from tollbridge.services.catalog import rows

ROOT = Path(__file__).parents[2]


def load(path: Path, text: str, environ: Mapping[str, str] | None = None, **options: Any) -> Settings:
    file = path / "tollbridge.toml"
    file.write_text(text)
    return read(Source(file, tuple(options.items())), environ or {})


def origin(settings: Settings, name: str) -> str:
    return next(Path(each.origin).name for each in settings.entries if each.name == name)


def test_every_preset_has_its_file_and_its_page() -> None:
    assert {file.stem for file in SHIPPED_PRESETS.iterdir()} == set(PRESETS)
    page = (ROOT / "docs" / "presets.md").read_text()
    assert all(f"`{name}`" in page for name in PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_every_setting_of_a_preset_is_in_effect(name: str, tmp_path: Path) -> None:
    settings = load(tmp_path, f'preset = "{name}"')
    written = re.findall(r"^(\w+) = ", (SHIPPED_PRESETS / f"{name}.toml").read_text(), re.M)
    assert len([each for each in settings.entries if each.origin == f"preset {name}"]) == len(written)


def test_file_environment_and_command_line_can_name_it(tmp_path: Path) -> None:
    in_file = load(tmp_path, 'preset = "modelbridge"')
    in_environment = load(tmp_path, "", {"TOLLBRIDGE_PRESET": "modelbridge"})
    in_options = load(tmp_path, 'preset = "model-database"', preset="modelbridge")
    names = [each.brand.name for each in (in_file, in_environment, in_options)]
    assert names == ["ModelBridge"] * 3


def test_what_the_operator_says_wins_value_by_value(tmp_path: Path) -> None:
    text = """
    preset = "modelbridge"
    [brand]
    name = "My Bridge"
    [plans.free]
    rpm = 5
    [plans.team]
    rpm = 500
    """
    settings = load(tmp_path, text, {"TOLLBRIDGE_BRAND__TAGLINE": "Mine"})
    brand = settings.brand
    assert (brand.name, brand.tagline, brand.key_prefix) == ("My Bridge", "Mine", "mb-")
    free = settings.plans["free"]
    assert (free.rpm, free.tpm, free.strict) == (5, 50_000, True)
    assert settings.plans["team"].rpm == 500
    assert origin(settings, "plans.free.rpm") == "tollbridge.toml:6"
    assert origin(settings, "plans.free.tpm") == "preset modelbridge"
    assert origin(settings, "brand.tagline") == "TOLLBRIDGE_BRAND__TAGLINE"


def test_the_operator_s_own_models_are_for_sale_beside_the_preset_s(tmp_path: Path) -> None:
    text = """
    preset = "modelbridge"
    [providers.box]
    base_url = "http://10.0.0.5:8080/v1"
    [[models]]
    id = "mine"
    price = { input = "1", output = "1" }
    routes = [{ provider = "box", model = "m" }]
    """
    sold = [row.id for row in rows(load(tmp_path, text))]
    assert len(sold) == 16
    assert sold[-1] == "mine"


def test_patterns_choose_among_the_shipped_models(tmp_path: Path) -> None:
    sold = [row.id for row in rows(load(tmp_path, '[catalog]\nmodels = ["deepseek-v4-*", "glm-4-air"]'))]
    assert sorted(sold) == ["deepseek-v4-flash", "deepseek-v4-pro", "glm-4-air"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('preset = "modelbrige"', "did you mean modelbridge?"),
        ("preset = 1", '"model-database", "modelbridge"'),
        ('preset = "modelbridge"\nbrand = 1', "write [brand]"),
        ('preset = "modelbridge"\nplans = 1', "write [plans.NAME]"),
        ('[billing]\nsignup_plan = "gold"', "there is no plan gold"),
        ("[errors]\nupstream_failed = 200", "expected 502 or 500"),
    ],
)
def test_a_mistake_beside_a_preset_says_what_would_be_right(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert says in str(caught.value)


def test_serve_with_a_preset_prints_a_key_that_works(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, "--preset", "model-database", env={})
    try:
        assert "serves 3" in gateway.out  # hundreds of models
        found = re.search(r"^    (mdb_live_\w+)$", gateway.out, re.M)
        assert found is not None, gateway.out
        assert '"model":"anthropic/claude-opus-4-8"' in gateway.out
        body = {"model": "anthropic/claude-opus-4-8", "messages": [{"role": "user", "content": "Hello!"}]}
        status, headers, _ = gateway.post("/v1/chat/completions", found[1], body)
        assert status == 200
        assert headers.keys() >= {"X-MDB-Upstream-Cost-USD", "X-MDB-Charged-USD", "X-MDB-Balance-USD"}
    finally:
        gateway.stop()


def test_other_commands_take_the_preset_from_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "tollbridge.toml").write_text('preset = "modelbridge"\n')
    done = subprocess.run(
        [sys.executable, "-m", "tollbridge", "config", "show", "--json"],
        cwd=tmp_path, capture_output=True, check=True, timeout=60, env={"PATH": ""},
    )  # fmt: skip
    shown = {each["name"]: (each["value"], each["origin"]) for each in msgspec.json.decode(done.stdout)}
    assert shown["brand.key_prefix"] == ('"mb-"', "preset modelbridge")
