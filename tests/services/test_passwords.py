"""B8, B10 and what a password must be."""

import asyncio
import time
from contextlib import ExitStack

import pytest

from tollbridge.errors import InvalidRequest, Unavailable
from tollbridge.services.passwords import COMMON, MOST_OF_ONE, MOST_WAITING, Passwords, check


def test_a_hash_is_argon2id_with_the_parameters_of_the_rules_and_matches_its_password_alone() -> None:
    async def test() -> None:
        passwords = Passwords()
        hashed = await passwords.hash("correct horse battery")
        assert hashed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
        assert await passwords.matches(hashed, "correct horse battery")
        assert not await passwords.matches(hashed, "correct horse batterY")
        assert not await passwords.matches(None, "correct horse battery")
        assert not await passwords.matches("no hash", "correct horse battery")
        assert not passwords.is_old(hashed)
        assert passwords.is_old(hashed.replace("m=19456", "m=9728"))

    asyncio.run(test())


def test_the_same_letters_are_the_same_password_however_they_were_typed() -> None:
    async def test() -> None:
        passwords = Passwords()
        hashed = await passwords.hash("caf\u00e9 caf\u00e9 caf\u00e9")
        assert await passwords.matches(hashed, "cafe\u0301 cafe\u0301 cafe\u0301")

    asyncio.run(test())


def test_more_than_can_wait_are_refused() -> None:
    async def test() -> None:
        passwords = Passwords()
        tries = [passwords.matches(None, "x") for _ in range(MOST_WAITING + 8)]
        results = await asyncio.gather(*tries, return_exceptions=True)
        refused = [each for each in results if isinstance(each, Unavailable)]
        assert len(refused) == 8
        assert await passwords.matches(None, "x") is False

    asyncio.run(test())


def test_one_address_has_a_share_of_the_places_and_all_together_no_more_than_there_are() -> None:
    passwords = Passwords()
    with ExitStack() as waiting:
        for _ in range(MOST_OF_ONE):
            waiting.enter_context(passwords.turn("10.6.6.6"))
        with pytest.raises(Unavailable), passwords.turn("10.6.6.6"):
            pass
        for _ in range(MOST_WAITING - MOST_OF_ONE):
            waiting.enter_context(passwords.turn(""))
        with pytest.raises(Unavailable), passwords.turn("10.1.1.1"):
            pass
    with passwords.turn("10.6.6.6"):
        pass


@pytest.mark.parametrize(
    ("password", "words"),
    [
        ("eleven char", "at least 12"),
        ("x" * 129, "at most 128"),
        ("aaaaaaaaaaaaaa", "first that attackers try"),
        ("ada.lovelace@example.com", "first that attackers try"),
        ("Ada.Lovelace2027!", "first that attackers try"),
        ("Tollbridge-Gateway", "first that attackers try"),
        (COMMON.read_text().split()[7].upper(), "first that attackers try"),
    ],
)
def test_what_is_guessed_first_is_refused(password: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as refused:
        check(password, "ada.lovelace@example.com", "Tollbridge-Gateway")
    assert refused.value.param == "password"


def test_what_is_far_too_long_is_refused_before_it_costs_anything() -> None:
    async def test() -> None:
        passwords = Passwords()
        # To compose, a run of accents is sorted, in a time that grows with the square of its length.
        accents = "".join(accent * 8_000 for accent in "\u0315\u0300\u0316\u0327\u0334")
        before = time.thread_time()
        with pytest.raises(InvalidRequest, match="at most 128"):
            check(f"a{accents}", "ada@example.com")
        assert not await passwords.matches(await passwords.hash("correct horse battery"), f"a{accents}")
        assert time.thread_time() - before < 1

    asyncio.run(test())


def test_a_text_that_is_composed_may_be_as_long_as_any_other() -> None:
    typed = "e\u0301a\u0301i\u0301o\u0301u\u0301" * 25
    assert len(check(typed, "ada@example.com")) == 125


@pytest.mark.parametrize("password", ["twelve chars", "x1y2z3" * 21, "пароль из слов", "a b c d e f g h"])
def test_any_other_is_taken(password: str) -> None:
    assert check(password, "ada@example.com", "Tollbridge")
