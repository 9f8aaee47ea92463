"""What every command promises: help with an example, JSON where there are data, one line for a mistake."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest
from tests.cli.conftest import Shell

from tollbridge.cli import main
from tollbridge.core.keys import well_formed
from tollbridge.store.db import Contended, translate_sqlite


def groups(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(command, click.Group):
        yield path
        for name, each in command.commands.items():
            yield from groups(each, (*path, name))


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from leaves(each, (*path, name))
    else:
        yield path, command


COMMANDS = dict(leaves(main))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_with_an_example(shell: Shell, path: tuple[str, ...]) -> None:
    out = shell.ok(*path, "--help").out
    assert "--config FILE" in out
    assert "--data-dir DIR" in out
    example = out.split("Example:")[1].split("Options:")[0]
    assert f"tollbridge {' '.join(path)}" in example


@pytest.mark.parametrize("path", list(groups(main)), ids=" ".join)
def test_every_group_explains_itself_with_an_example(shell: Shell, path: tuple[str, ...]) -> None:
    """Without a command behind it too, and each line about a command is a whole sentence in 80 columns."""
    out = shell.ok(*path, "--help").out
    assert shell.ok(*path, "-h").out == out
    assert f"tollbridge {' '.join(path)}".strip() in out.split("Example:")[1].split("Options:")[0]
    assert "...\n" not in out.split("Commands:")[1]
    alone = shell(*path)
    assert (alone.code, alone.out, alone.err) == (2, "", out)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_says_a_mistake_in_one_line(shell: Shell, path: tuple[str, ...]) -> None:
    (shell.directory / "bad.toml").write_text("\nprot = 1\n")
    arguments = {"amount": "5", "email": "a@b.c"}
    words = [
        *(arguments.get(each.name or "", "x") for each in COMMANDS[path].params if isinstance(each, click.Argument)),
        *(word for each in COMMANDS[path].params if isinstance(each, click.Option) and each.required
          for word in (each.opts[0], "x")),
    ]  # fmt: skip
    done = shell(*path, *words, "--config", "bad.toml")
    assert done.code == 1
    assert done.err == "tollbridge: bad.toml:2: unknown setting prot; did you mean port?\n"
    assert shell(*path, "--nonsense").err.startswith("tollbridge: No such option")


def test_the_documented_commands_are_there() -> None:
    documented = """serve migrate doctor backup restore move
        account create, account list, account show, account freeze, key create, key list, key revoke, credit grant,
        ledger verify, ledger statement, catalog list, catalog check, catalog show, config show"""
    first, *others = documented.split("\n", 1)
    wanted = {(name,) for name in first.split()} | {tuple(name.split()) for name in "".join(others).split(",")}
    assert wanted <= set(COMMANDS)


def test_an_account_from_its_first_credit_to_its_statement(shell: Shell) -> None:
    made = msgspec.json.decode(shell.ok("account", "create", "Ada@Example.com", "--credit", "0.25", "--json").out)
    assert (made["email"], made["promo_usd"], made["plan"]) == ("ada@example.com", "0.25", "default")
    after = shell.ok("credit", "grant", "ada@example.com", "0.000000001", "--reason", "a nano", "--json").out
    assert msgspec.json.decode(after)["available_usd"] == "0.250000001"
    text = shell.ok("ledger", "statement", "ada@example.com", "--json").out
    lines = msgspec.json.decode(text)
    # Printed line by line, and yet as any other JSON is.
    assert text.encode() == msgspec.json.format(msgspec.json.encode(lines)) + b"\n"
    assert shell.ok("ledger", "statement", "ada@example.com", "--since", "2100-01-01", "--json").out.count("{") == 1
    head, *table = shell.ok("ledger", "statement", "ada@example.com").lines
    assert head.split() == ["at", "amount", "USD", "balance", "USD", "what"]
    assert [line[head.index("what") :] for line in table] == ["grant: first credit", "grant: a nano"]
    assert [(line["amount_usd"], line["balance_usd"], line["what"]) for line in lines] == [
        ("0.25", "0.25", "grant: first credit"),
        ("0.000000001", "0.250000001", "grant: a nano"),
    ]
    (listed,) = msgspec.json.decode(shell.ok("account", "list", "--json").out)
    assert (listed["email"], listed["id"]) == ("ada@example.com", made["id"])
    assert shell.ok("account", "list").lines[1].split()[:4] == ["ada@example.com", "default", "active", "0.250000001"]
    verified = msgspec.json.decode(shell.ok("ledger", "verify", "--json").out)
    assert verified["ok"]
    assert verified["trial_balance_usd"]["customer_promo"] == "0.250000001"


def test_a_new_key_stands_alone_on_standard_output(shell: Shell) -> None:
    shell.ok("account", "create", "ada@example.com")
    done = shell.ok("key", "create", "--account", "ada@example.com", "--label", "laptop", "--limit", "2.5")
    (key,) = done.lines
    assert well_formed("tb_live_", key)
    assert key not in done.err
    assert done.out == f"{key}\n"
    done = shell.ok("key", "create", "--account", "ada@example.com", "--label", "ci", "--json")
    made = json.loads(done.out)
    (_, listed) = json.loads(shell.ok("key", "list", "--account", "ada@example.com", "--json").out)
    assert well_formed("tb_live_", made.pop("key"))
    assert (made, done.err) == ({"id": listed["id"], "account": "ada@example.com", "label": "ci"}, "")


def test_what_shows_an_account_takes_its_id_and_its_number_too(shell: Shell) -> None:
    """A closed account has no other name."""
    ada = json.loads(shell.ok("account", "create", "ada@example.com", "--json").out)["id"]
    shell.ok("key", "create", "--account", "ada@example.com")
    for words in (("key", "list", "--account"), ("byok", "list", "--account"), ("ledger", "statement")):
        shown = shell.ok(*words, "ada@example.com").out
        assert [shell.ok(*words, name).out for name in (ada, "1")] == [shown, shown]
        assert "there is no account" in shell.refused(*words, "acct_x")


def test_a_new_key_can_be_shown_again_where_keys_always_are(shell: Shell) -> None:
    shell.ok("account", "create", "ada@example.com")
    make = ("key", "create", "--account", "ada@example.com")
    assert "shown only now" in shell.ok(*make).err
    assert "the dashboard shows the key too" in shell.ok(*make, env={"TOLLBRIDGE_KEYS__REVEAL": "always"}).err
    with shell.database() as database:
        assert database.execute("SELECT key_id FROM key_copy").fetchall() == [(2,)]


def test_a_key_for_a_model_that_nobody_has_is_made_with_a_warning(shell: Shell) -> None:
    shell.ok("account", "create", "ada@example.com")
    make = ("key", "create", "--account", "ada@example.com", "--model")
    done = shell.ok(*make, "deepsek-chat", "--model", "glm-*")
    assert "warning: no model is called 'deepsek-chat': tollbridge catalog list --all names them" in done.err
    assert "glm" not in done.err
    assert done.lines[0].startswith("tb_live_")
    assert "warning" not in shell.ok(*make, "claude-opus-4-8").err


def test_a_list_of_keys_begins_each_line_with_the_id_and_shows_no_key(shell: Shell) -> None:
    """B20."""
    shell.ok("account", "create", "ada@example.com")
    (key,) = shell.ok("key", "create", "--account", "ada@example.com", "--expires", "2999-01-31").lines
    (row,) = msgspec.json.decode(shell.ok("key", "list", "--account", "ada@example.com", "--json").out)
    assert row["expires_at"] == "2999-01-31T00:00:00Z"
    for command in (("key", "list", "--account", "ada@example.com"), ("account", "show", "ada@example.com")):
        for extra in ((), ("--json",)):
            out = shell.ok(*command, *extra).out
            assert key not in out
            assert row["id"] in out
    _, line = shell.ok("key", "list", "--account", "ada@example.com").lines
    assert line.split()[:3] == [row["id"], row["key"], "active"]
    assert row["number"] == 1  # which is what the log calls it
    shell.ok("key", "revoke", row["id"])
    (row,) = msgspec.json.decode(shell.ok("key", "list", "--account", "ada@example.com", "--json").out)
    assert row["status"] == "revoked"


def test_limits_that_were_agreed_are_told_and_shown(shell: Shell) -> None:
    shell.ok("account", "create", "ada@example.com")
    assert "agreed         -" in shell.ok("account", "show", "ada@example.com").lines
    words = ("account", "plan", "ada@example.com", "default", "--rpm", "1500", "--cost-cap", "2.5")
    says = "1,500 requests a minute, at most 2.5 USD a request, until 2999-01-31"
    assert shell.ok(*words, "--until", "2999-01-31").err == f"agreed: {says}\n"
    assert json.loads(shell.ok("account", "show", "ada@example.com", "--json").out)["agreed"] == says
    assert "must end in the future" in shell.refused(*words, "--until", "2020-01-01")
    shell.ok("account", "plan", "ada@example.com", "default")
    assert json.loads(shell.ok("account", "show", "ada@example.com", "--json").out)["agreed"] is None


def test_an_account_is_found_by_its_address_its_id_and_the_number_in_the_log(shell: Shell) -> None:
    """The log of requests names accounts by number alone."""
    shell.ok("account", "create", "bob@example.com")
    shell.ok("account", "create", "ada@example.com")
    shown = msgspec.json.decode(shell.ok("account", "show", "ada@example.com", "--json").out)
    assert shown["number"] == 2
    for name in (shown["id"], "2"):
        assert msgspec.json.decode(shell.ok("account", "show", name, "--json").out) == shown
    for nobody in ("3", "acct_unknown", "9" * 18):
        assert f"there is no account {nobody}" in shell.refused("account", "show", nobody)
    assert "has no account" in shell.refused("account", "show", "acct_ada@example.com")
    for none in ("9" * 19, "٣"):
        assert "is not an e-mail address" in shell.refused("account", "show", none)


def test_an_account_is_named_by_address_id_or_number_wherever_it_is_changed(shell: Shell) -> None:
    """The log has the number alone, and who reads there what an account does may have to stop it at once."""
    made = json.loads(shell.ok("account", "create", "ada@example.com", "--json").out)
    for name in (made["email"], made["id"], str(made["number"])):
        assert "ada@example.com is frozen" in shell.ok("account", "freeze", name).err
        assert "ada@example.com is active" in shell.ok("account", "unfreeze", name).err
        assert json.loads(shell.ok("account", "plan", name, "pro", "--json").out)["id"] == made["id"]
        key = shell.ok("key", "create", "--account", name, "--json").out
        assert json.loads(key)["account"] == "ada@example.com"
    shell.ok("account", "close", made["id"])
    for words in (("account", "freeze"), ("key", "create", "--account")):
        assert shell.refused(*words, made["id"]) == f"tollbridge: {made['id']} is closed"
    assert shell.refused("account", "plan", made["id"], "pro") == f"tollbridge: {made['id']} is closed"


def test_freezing_is_seen_and_undone(shell: Shell) -> None:
    shell.ok("account", "create", "ada@example.com")
    for command, status in (("freeze", "frozen"), ("freeze", "frozen"), ("unfreeze", "active")):
        shell.ok("account", command, "ADA@example.com")
        assert msgspec.json.decode(shell.ok("account", "show", "ada@example.com", "--json").out)["status"] == status


def test_the_reason_of_a_freeze_is_noted_for_the_accounts_members(shell: Shell) -> None:
    shell.ok("account", "create", "ada@example.com")
    shell.ok("account", "freeze", "ada@example.com", "--reason", "a chargeback of 3 May")
    assert "Say why" in shell.refused("account", "unfreeze", "ada@example.com", "--reason", " ")
    shell.ok("account", "unfreeze", "ada@example.com")
    with shell.database() as database:
        noted = database.execute("SELECT action, detail FROM activity WHERE action LIKE 'account.%frozen' ORDER BY id")
        assert noted.fetchall() == [("account.frozen", "a chargeback of 3 May"), ("account.unfrozen", "")]


def test_what_is_done_on_the_command_line_is_noted_with_who_did_it(shell: Shell) -> None:
    shell.ok("account", "create", "ada@example.com")
    for word in ("freeze", "freeze", "unfreeze"):
        shell.ok("account", word, "ada@example.com")
    made = shell.ok("key", "create", "--account", "ada@example.com", "--label", "laptop").err
    key = made.split()[0]
    shell.ok("key", "revoke", key)
    box = {"TOLLBRIDGE_PROVIDERS__BOX__BASE_URL": "http://10.0.0.5/v1", "CREDENTIAL": "sk-of-ada-alone-12345"}
    own = ("byok", "add", "box", "--account", "ada@example.com", "--env", "CREDENTIAL", "--json")
    kept = json.loads(shell.ok(*own, env=box).out)["id"]
    shell.ok("byok", "remove", kept)
    shell.ok("operator", "link", "boss@example.com", "--create")
    with shell.database() as database:
        deeds = database.execute("SELECT actor, action, detail FROM activity ORDER BY id").fetchall()
    assert {actor.partition("/")[0] for actor, _, _ in deeds} == {"cli"}
    assert [deed[1:] for deed in deeds] == [
        ("account.opened", ""),
        ("account.frozen", ""),
        ("account.unfrozen", ""),
        ("key.created", "laptop"),
        ("key.revoked", key),
        ("byok.added", "box …2345"),
        ("byok.removed", kept),
        ("operator.linked", "boss@example.com"),
    ]


def test_a_grant_with_the_same_text_is_made_once(shell: Shell) -> None:
    shell.ok("account", "create", "ada@example.com")
    words = ("credit", "grant", "ada@example.com", "5", "--reason", "x", "--idempotency-key", "invoice 7")
    assert shell.ok(*words).err == ""
    assert "nothing has changed" in shell.ok(*words).err
    assert "5" in shell.ok("account", "show", "ada@example.com").out
    assert "used for another grant" in shell.refused(
        "credit", "grant", "ada@example.com", "6", "--reason", "x", "--idempotency-key", "invoice 7"
    )


def test_a_grant_is_given_to_whom_an_export_names_unless_they_are_gone(shell: Shell) -> None:
    account = json.loads(shell.ok("account", "create", "ada@example.com", "--json").out)["id"]
    given = json.loads(shell.ok("credit", "grant", account, "0.000001", "--reason", "x", "--json").out)
    assert (given["email"], given["available_usd"]) == ("ada@example.com", "0.000001")
    shell.ok("account", "close", account)
    assert "this account is closed" in shell.refused("credit", "grant", account, "1", "--reason", "x")


BAD_AMOUNTS = [
    *("", " ", "0", "0.0", "0.000000000", "00", "-0", "-1", "-0.01", "+1", "+0.5", " 1", "1 ", "1 000", "1_000", "1,5"),
    *("1,000", "1.", ".5", "1..5", "1.5.5", "1e3", "1E3", "1e309", "1e-9", "1e", "nan", "NaN", "inf", "-inf"),
    *("Infinity", "0x10", "0b1", "0o7", "1/2", "½", "٣", "１", "五", "$5", "5$", "5 USD", "USD 5", "5%", "five"),
    *("null", "None", "true", "[5]", "{}", "'5'", '"5"', "5\n", "\t5", "5\x00", "0.0000000001", "1.0000000001"),
    *("4611686018.427387904", "9223372036.854775808", "99999999999999999999", "1" * 400, "1." + "0" * 400 + "1"),
    *("--5", "5;", "5'--", "01", "-", ".", "e"),
]  # fmt: skip


def test_there_are_enough_bad_amounts() -> None:
    assert len(set(BAD_AMOUNTS)) >= 60


@pytest.mark.parametrize("amount", BAD_AMOUNTS, ids=repr)
def test_an_amount_that_is_none_is_refused(shell: Shell, amount: str) -> None:
    """A17."""
    shell.ok("account", "create", "ada@example.com")
    shell.refused("credit", "grant", "--reason", "x", "--", "ada@example.com", amount)
    shell.refused("credit", "grant", "ada@example.com", amount, "--reason", "x")
    shell.refused("account", "create", "bob@example.com", f"--credit={amount}")
    shell.refused("key", "create", "--account", "ada@example.com", f"--limit={amount}")
    (only,) = msgspec.json.decode(shell.ok("account", "list", "--json").out)
    assert only["available_usd"] == "0"
    assert msgspec.json.decode(shell.ok("key", "list", "--account", "ada@example.com", "--json").out) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("account", "show", "bob@example.com"), "bob@example.com has no account"),
        (("account", "create", "nobody"), "'nobody' is not an e-mail address"),
        (("account", "create", "ada@example.com"), "already has an account"),
        (
            ("account", "create", "b@example.com", "--plan", "gold"),
            "there is no plan 'gold', only free, pro, custom, default: ",
        ),
        (("account", "create"), "Missing argument 'EMAIL'. (see tollbridge account create --help)"),
        (("key", "create"), "Missing option '--account'"),
        (("key", "create", "--account", "ada@example.com", "--expires", "soon"), "a date must be like 2027-01-31"),
        (("key", "create", "--account", "ada@example.com", "--expires", "2001-01-31"), "must be in the future"),
        (("key", "create", "--account", "ada@example.com", "--expires", "9999-12-31T23:59-12:00"), "from 1970 to 9998"),
        (("ledger", "statement", "ada@example.com", "--since", "0001-01-01T00:00+14:00"), "from 1970 to 9998"),
        (("voucher", "create", "5", "--expires", "9999-12-31T23:59-12:00"), "from 1970 to 9998"),
        (
            ("key", "create", "--account", "ada@example.com", "--rpm", "9" * 20),
            "Requests per minute must be a whole number from 1 to 1,000,000,000",
        ),
        (("key", "create", "--account", "ada@example.com", "--model", ""), "'' is neither a model's name"),
        (("key", "create", "--account", "ada@example.com", "--model", "a b"), "'a b' is neither a model's name"),
        (
            ("account", "plan", "ada@example.com", "custom", "--included-tokens", "9" * 20),
            "included_tokens is a whole number from 0 to",
        ),
        (("ledger", "statement", "ada@example.com", "--month", "2026-11", "--since", "2026-11-02"), "not both"),
        (("ledger", "statement", "ada@example.com", "--month", "2026-11", "--csv", "--json"), "not both"),
        (("report", "margin", "--month", "2026-11", "--csv", "--json"), "not both"),
        (("report", "journal", "--month", "November"), "a month is like 2026-11"),
        (("key", "revoke", "key_unknown"), "there is no key 'key_unknown'"),
        (("key", "revoke", "2"), "there is no key: give its id, key_…, not the key itself"),
        (("credit", "grant", "ada@example.com", "5", "--reason", " "), "reason must be 1 to 500 characters"),
        (("catalog", "show", "gpt-99"), "there is no model 'gpt-99'"),
        (("catalog", "show", "deepsek-chat"), "did you mean deepseek-chat?"),
        (("serve", "--port", "99999"), "it is a whole number from 0 to 65535, not '99999'"),
        (("serve", "--port", "x"), "it is a whole number from 0 to 65535, not 'x'"),
        (("catalog", "check", "--days", "0"), "it is a whole number of at least 1, not '0'"),
        (("serve", "--host", "a b"), "tollbridge: --host: expected an address"),
        (("doctor", "--config", "nowhere.toml"), "nowhere.toml: cannot be read"),
        (("backup", "data/tollbridge.db"), "exists already"),
        (("restore", "nowhere.db"), "there is no such file"),
        (("move",), "Missing argument 'URL'. (see tollbridge move --help)"),
        (("move", "env:NOWHERE"), "the environment variable 'NOWHERE' is not set"),
        (("move", "file:nowhere"), "the file 'nowhere' cannot be read"),
        (("move", "postgres.internal"), 'expected "sqlite:///path'),
        (("move", "sqlite:///other.db"), "the target must be a PostgreSQL database: postgresql://user"),
        (("nonsense",), "No such command 'nonsense'"),
        (("accont",), "Did you mean 'account'?"),
        (
            ("credit", "grant", "ada@example.com", "-5", "--reason", "x"),
            "-5 is negative: amounts and numbers must be",
        ),
        (("account", "lsit"), "Did you mean 'list'?"),
    ],
)
def test_a_mistake_is_one_clear_line(shell: Shell, words: tuple[str, ...], says: str) -> None:
    shell.ok("account", "create", "ada@example.com")
    assert says in shell.refused(*words)


def change_by_hand(statement: str) -> None:
    connection = sqlite3.connect("data/tollbridge.db")
    connection.execute(statement)
    connection.commit()
    connection.close()


def test_books_that_are_wrong_are_told(shell: Shell) -> None:
    shell.ok("account", "create", "ada@example.com", "--credit", "5")
    change_by_hand("UPDATE balance SET promo = promo + 1")
    done = shell("ledger", "verify")
    assert done.code == 1
    assert "the books are wrong in 1 place" in done.err
    assert "account 1" in done.out
    assert not msgspec.json.decode(shell("ledger", "verify", "--json").out)["ok"]


def test_of_very_many_mistakes_the_first_are_named_and_all_are_counted(shell: Shell) -> None:
    shell.ok("account", "create", "ada@example.com", "--credit", "5")
    change_by_hand(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1001) "
        "INSERT INTO balance (account_id, paid, promo, held, frozen) SELECT i + 1, 7, 0, 0, 0 FROM n"
    )
    assert "; the first 1,000 are named above" in shell("ledger", "verify").err
    told = msgspec.json.decode(shell("ledger", "verify", "--json").out)
    assert (len(told["problems"]), told["found"] > 1_000) == (1_000, True)


def test_a_backup_is_put_back(shell: Shell) -> None:
    shell.ok("account", "create", "ada@example.com")
    shell.ok("key", "create", "--account", "ada@example.com")
    assert "secret" in shell.ok("backup", "copy.db").err
    shell.ok("account", "create", "bob@example.com")
    assert (
        "the database that was there is kept as data/tollbridge.db.before-restore-"
        in shell.ok("restore", "copy.db").err
    )
    assert [each["email"] for each in msgspec.json.decode(shell.ok("account", "list", "--json").out)] == [
        "ada@example.com"
    ]


def test_the_configuration_is_found_where_it_is_said(shell: Shell) -> None:
    (shell.directory / "tollbridge.toml").write_text('[brand]\nname = "Here"\n')
    (shell.directory / "other.toml").write_text('[brand]\nname = "There"\n')

    def name(*words: str, **env: str) -> tuple[str, str]:
        entries = msgspec.json.decode(shell.ok("config", "show", "--json", *words, env=env).out)
        return next((each["value"], each["origin"]) for each in entries if each["name"] == "brand.name")

    assert name() == ('"Here"', "tollbridge.toml:2")
    assert name("--config", "other.toml") == ('"There"', "other.toml:2")
    assert name(TOLLBRIDGE_CONFIG="other.toml") == ('"There"', "other.toml:2")
    assert name(TOLLBRIDGE_BRAND__NAME="Everywhere") == ('"Everywhere"', "TOLLBRIDGE_BRAND__NAME")
    assert 'data_dir = "elsewhere"  # --data-dir' in shell.ok("config", "show", "--data-dir", "elsewhere").lines
    assert 'data_dir = "there"  # TOLLBRIDGE_DATA_DIR' in shell.ok(
        "config", "show", env={"TOLLBRIDGE_DATA_DIR": "there"}
    ).lines  # fmt: skip


def test_the_catalog_tells_what_customers_pay(shell: Shell) -> None:
    env = {"DEEPSEEK_API_KEY": "canary", "TOLLBRIDGE_BILLING__MARKUP_PERCENT": "10"}
    listed = msgspec.json.decode(shell.ok("catalog", "list", "--json", env=env).out)
    assert {route["provider"] for model in listed for route in model["routes"] if route["open"]} == {"deepseek"}
    assert len(msgspec.json.decode(shell.ok("catalog", "list", "--all", "--json", env=env).out)) > len(listed)
    (route, *_) = msgspec.json.decode(shell.ok("catalog", "show", "deepseek-chat", "--json", env=env).out)["routes"]
    assert (route["price_usd_per_million"]["input"], route["cost_usd_per_million"]["input"]) == ("0.165", "0.15")
    shown = shell.ok("catalog", "show", "deepseek/deepseek-chat", env=env).out
    assert "deepseek-chat at deepseek" in shown
    assert "mon-fri, 01:00-04:00 UTC:" in shown
    assert "above 200,000 tokens of prompt:" in shell.ok("catalog", "show", "gemini-2.5-pro", env=env).out


def test_the_catalog_is_checked_for_sales_below_cost(shell: Shell) -> None:
    (shell.directory / "tollbridge.toml").write_text(
        '[providers.box]\nbase_url = "http://10.0.0.5/v1"\n[[models]]\nid = "m"\n'
        'price = { input = "1", output = "2" }\ncost = { input = "1", output = "3" }\n'
        'routes = [{ provider = "box", model = "x" }]\n'
    )
    done = shell("catalog", "check")
    assert (done.code, done.lines) == (1, ["loss     m at box: the price of output is below its cost"])


def test_migrating_again_changes_nothing(shell: Shell) -> None:
    assert shell.ok("migrate").err.endswith(" already\n")


def test_the_first_account_makes_a_new_database_and_says_so(tmp_path: Path) -> None:
    fresh = Shell(tmp_path)
    done = fresh.process("account", "create", "ada@example.com")
    assert (done.code, done.err) == (0, "data/tollbridge.db is a new database\n")
    assert (tmp_path / "data" / "tollbridge.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "command", ["ledger verify", "audit verify", "account list", "operator link", "secrets rotate"]
)
def test_in_the_wrong_directory_nothing_is_made_and_nothing_is_right(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    says = "tollbridge: there is no database data/tollbridge.db: is this the gateway's directory"
    assert Shell(tmp_path).refused(*command.split()).startswith(says)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_database_is_said_to_be_empty(shell: Shell) -> None:
    (shell.directory / "data" / "tollbridge.db").write_bytes(b"")
    assert "the database is empty: the first start creates its tables" in shell.refused("ledger", "verify")


def test_a_place_where_nothing_can_be_made_is_said(shell: Shell) -> None:
    (shell.directory / "file").touch()
    says = "tollbridge: file/data/tollbridge.db: the database cannot be made: Not a directory"
    assert shell.refused("account", "create", "a@example.com", "--data-dir", "file/data") == says
    done = shell.process("serve", "--port", "0", "--data-dir", "file/data")
    assert (done.code, done.out, done.err.splitlines()[-1]) == (1, "", says)


def test_a_file_that_is_no_database_is_said(shell: Shell) -> None:
    (shell.directory / "data" / "tollbridge.db").write_text("no database, whatever its name says")
    says = "tollbridge: the database data/tollbridge.db: the file is damaged, or was never a database: tollbridge "
    assert shell.refused("account", "list").startswith(says)
    assert shell.refused("migrate").startswith(says)
    assert shell("doctor").code == 1


def test_a_database_of_another_version_is_left_alone(shell: Shell) -> None:
    change_by_hand("UPDATE alembic_version SET version_num = '0000'")
    assert shell.refused("account", "list").endswith(": run tollbridge migrate")
    change_by_hand("UPDATE alembic_version SET version_num = '9999'")
    change_by_hand("UPDATE meta SET value = 9999 WHERE name = 'schema_oldest'")
    assert "it was used by a newer Tollbridge: run that version" in shell.refused("account", "list")


def test_everything_works_as_a_process_of_its_own(shell: Shell) -> None:
    assert shell.process("--version").out.startswith("tollbridge")
    assert shell.process("account", "create", "ada@example.com", "--credit", "5").code == 0
    done = shell.process("key", "create", "--account", "ada@example.com")
    assert well_formed("tb_live_", done.out.strip())
    assert shell.process("credit", "grant", "ada@example.com", "-5", "--reason", "x").code == 2
    assert shell.process("doctor").code == 0
    assert shell.process("ledger", "verify").code == 0


def test_what_is_printed_is_utf_8_for_programs_and_readable_for_any_terminal(shell: Shell) -> None:
    """An account is made although its name cannot be shown, and no list stops at it."""
    encodings = {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    shell.ok("account", "create", "\u6f22@example.com")
    assert shell.process("account", "list", env=encodings).out.splitlines()[1].startswith("\\u6f22@example.com ")
    (only,) = json.loads(shell.process("account", "list", "--json", env=encodings).out)
    assert only["email"] == "\u6f22@example.com"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
@pytest.mark.parametrize("words", ["account list", "account list --json", "report journal --month 2026-11"])
def test_output_that_cannot_be_written_is_said_in_one_line(shell: Shell, words: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tollbridge", *words.split()],
            cwd=shell.directory, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "tollbridge: No space left on device\n")


def test_a_database_that_fails_in_the_middle_is_said_with_what_helps(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: object, **__: object) -> None:
        cause = sqlite3.OperationalError("attempt to write a readonly database")
        cause.sqlite_errorcode, cause.sqlite_errorname = sqlite3.SQLITE_READONLY, "SQLITE_READONLY"
        raise translate_sqlite(cause) from cause

    async def busy(*_: object, **__: object) -> None:
        raise Contended("Try again shortly.") from sqlite3.OperationalError("database is locked")

    monkeypatch.setattr("tollbridge.services.accounts.create", fails)
    assert "it cannot be written: does it belong to the user" in shell.refused("account", "create", "ada@example.com")
    monkeypatch.setattr("tollbridge.services.accounts.create", busy)
    assert shell.refused("account", "create", "ada@example.com") == "tollbridge: Try again shortly."


def test_help_is_quick(shell: Shell) -> None:
    """Nothing heavy is imported for it."""
    program = "import sys, tollbridge.cli; print(*sorted(name for name in sys.modules if '.' not in name))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    heavy = {"sqlalchemy", "alembic", "asyncpg", "uvicorn", "uvloop", "httptools", "cryptography", "msgspec", "sqlite3"}
    assert not heavy & set(done.stdout.split())
