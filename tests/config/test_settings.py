"""The table of settings and the values that it becomes say the same."""

import msgspec
import pytest

from tollbridge.config import SETTINGS, Source, read
from tollbridge.config.kinds import HEADERS, SECRET, Secret, is_loopback, is_private, nearest, without_password
from tollbridge.config.settings import Settings
from tollbridge.config.table import GROUPS, Group
from tollbridge.upstream.auth import SCHEMES

# What is no setting: names that come from a table's own, facts of the shipped catalog, and what reading leaves.
BESIDE = {
    "": {"source", "entries", "warnings"},
    "models[]": {"created", "source", "checked"},
    "models[].routes[]": {"source", "doubt"},
    "plans.NAME": {"name"},
}


def written_in(group: Group) -> set[str]:
    inner = {each.key for each in GROUPS[1:] if each.parent == group.name}
    return inner | {each.name.rpartition(".")[2] for each in SETTINGS if each.name.rpartition(".")[0] == group.name}


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name or "top")
def test_every_field_is_a_setting_and_every_setting_a_field(group: Group) -> None:
    fields = {field.encode_name for field in msgspec.structs.fields(group.type)}
    assert fields - BESIDE.get(group.name, set()) == written_in(group)


def test_every_setting_belongs_to_a_group() -> None:
    assert {each.name.rpartition(".")[0] for each in SETTINGS} <= {group.name for group in GROUPS}


def test_names_are_unique_and_explained() -> None:
    names = [each.name for each in SETTINGS]
    assert len(set(names)) == len(names)
    assert not [each.name for each in SETTINGS if not each.help.endswith(".")]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_default_is_of_its_kind(setting: object) -> None:
    assert isinstance(setting, type(SETTINGS[0]))
    if setting.default is not None:
        setting.kind.parse(setting.default)


@pytest.mark.parametrize("group", GROUPS[1:], ids=lambda group: group.name)
def test_a_default_in_the_table_is_the_default_of_the_value(group: Group) -> None:
    fields = {field.encode_name: field for field in msgspec.structs.fields(group.type)}
    for setting in SETTINGS:
        if setting.name.rpartition(".")[0] != group.name or setting.default is None:
            continue
        field = fields[setting.name.rpartition(".")[2]]
        if field.default is not msgspec.NODEFAULT:
            assert field.default == setting.kind.parse(setting.default), setting.name


def test_every_way_to_show_a_credential_can_be_configured() -> None:
    (auth,) = (each.kind for each in SETTINGS if each.name == "providers.NAME.auth")
    for name in SCHEMES:
        assert auth.parse(name) == name


def test_whatever_may_hold_a_secret_is_masked() -> None:
    for field in msgspec.structs.fields(Settings):
        if field.type in (Secret, Secret | None):
            (kind,) = (each.kind for each in SETTINGS if each.name == field.name)
            assert kind.secret
    assert SECRET.secret
    assert HEADERS.secret


def test_secrets_are_equal_by_their_text() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        read(Source(), {}).billing.cost_cap = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:pw@db:5432/x", "postgresql://me:***@db:5432/x"),
        ("postgresql://me:p@w:d@db/x", "postgresql://me:***@db/x"),
        ("postgresql://me@db/x?password=pw", "postgresql://me@db/x"),
        ("sqlite:////srv/a@b.db", "sqlite:////srv/a@b.db"),
    ],
)
def test_a_database_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize(
    ("host", "loopback", "private"),
    [
        ("127.0.0.9", True, True),
        ("::1", True, True),
        ("localhost", True, True),
        ("10.1.2.3", False, True),
        ("fd00::1", False, True),
        ("vllm", False, True),
        ("vllm.default.svc.cluster.local", False, True),
        ("8.8.8.8", False, False),
        ("api.example.com", False, False),
        ("localhost.example.com", False, False),
    ],
)
def test_how_far_away_a_host_is(host: str, loopback: bool, private: bool) -> None:
    assert (is_loopback(host), is_private(host)) == (loopback, private)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    assert nearest("prot", ["port", "host"]) == "did you mean port?"
    assert nearest("zzz", ["port", "host", "port"]) == "known here: host, port"
