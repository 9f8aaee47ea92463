"""Accounts that cut long prompts before the first token, those that ask on after a 429, and what is not paid."""

from tollbridge.core.abuse import (
    LONG_PROMPT_TOKENS,
    MOST_CUTS,
    MOST_REFUSALS,
    REFUSALS_S,
    WINDOW_S,
    Cuts,
    Losses,
    Refusals,
)


def cut(cuts: Cuts, times: int, *, account: int = 1, prompt: int = LONG_PROMPT_TOKENS, start: float = 0.0) -> float:
    for second in range(times):
        cuts.note(account, prompt, start + second)
    return start + times


def test_some_cuts_are_let_pass_and_one_more_is_too_many() -> None:
    cuts = Cuts()
    now = cut(cuts, MOST_CUTS)
    assert cuts.cool_down(1, now) == 0
    now = cut(cuts, 1, start=now)
    assert cuts.cool_down(1, now) == WINDOW_S - now
    assert cuts.cool_down(2, now) == 0


def test_cool_down_ends_when_the_first_of_the_cuts_is_old() -> None:
    cuts = Cuts()
    cut(cuts, MOST_CUTS + 1)
    assert cuts.cool_down(1, WINDOW_S - 1) == 1
    assert cuts.cool_down(1, WINDOW_S) == cuts.cool_down(1, WINDOW_S + 99) == 0
    cut(cuts, 1, start=WINDOW_S)
    assert cuts.cool_down(1, WINDOW_S) == 1


def test_short_prompts_are_never_counted() -> None:
    cuts = Cuts()
    now = cut(cuts, 1000, prompt=LONG_PROMPT_TOKENS - 1)
    assert cuts.cool_down(1, now) == 0


def test_old_accounts_are_forgotten_when_there_are_many() -> None:
    cuts = Cuts()
    for account in range(10_000):
        cuts.note(account, LONG_PROMPT_TOKENS, 0.0)
    cuts.note(7, LONG_PROMPT_TOKENS, 1.0)
    cuts.note(10_001, LONG_PROMPT_TOKENS, WINDOW_S)
    assert {account: list(times) for account, times in cuts.latest.items()} == {7: [0.0, 1.0], 10_001: [WINDOW_S]}


def test_who_asks_on_although_they_are_refused_cools_down_for_the_rest_of_the_minute() -> None:
    """D11."""
    refusals = Refusals[int](MOST_REFUSALS)
    for number in range(MOST_REFUSALS + 1):
        assert refusals.cool_down(1, 7 + number / 100) == 0
        refusals.note(1, 7 + number / 100)
    assert refusals.cool_down(1, 27) == 7 + REFUSALS_S - 27
    assert refusals.cool_down(2, 27) == 0
    assert refusals.cool_down(1, 7 + REFUSALS_S) == refusals.cool_down(1, 99 + REFUSALS_S) == 0
    refusals.note(1, 7 + REFUSALS_S)
    assert refusals.cool_down(1, 8 + REFUSALS_S) == 0
    # The next minute is counted like the first.
    for _ in range(MOST_REFUSALS):
        refusals.note(1, 8 + REFUSALS_S)
    assert refusals.cool_down(1, 8 + REFUSALS_S) == REFUSALS_S - 1


def test_refusals_of_an_ordinary_client_are_no_abuse() -> None:
    refusals = Refusals[int](MOST_REFUSALS)
    for number in range(10 * MOST_REFUSALS):
        refusals.note(1, number * REFUSALS_S / MOST_REFUSALS)
        assert refusals.cool_down(1, number * REFUSALS_S / MOST_REFUSALS) == 0


def test_old_refusals_are_forgotten_when_there_are_many_accounts() -> None:
    refusals = Refusals[int](MOST_REFUSALS)
    for account in range(10_000):
        refusals.note(account, 1.0 if account == 7 else 0.0)
    refusals.note(10_001, REFUSALS_S)
    assert refusals.minutes == {7: (1.0, 1), 10_001: (REFUSALS_S, 1)}


def test_so_much_is_given_a_day_and_no_more() -> None:
    losses = Losses()
    assert losses.may_give(1, 7, 60, 100)
    assert not losses.may_give(1, 7, 41, 100)
    assert losses.may_give(1, 7, 40, 100)
    assert losses.given(1, 7) == 100
    assert (losses.given(2, 7), losses.given(1, 8)) == (0, 0)
    assert losses.may_give(1, 8, 100, 100)
    losses.add(1, 8, 50)
    assert losses.given(1, 8) == 150


def test_losses_of_earlier_days_are_forgotten_when_there_are_many() -> None:
    losses = Losses()
    for account in range(100_000):
        losses.add(account, 1, 1)
    losses.add(7, 2, 5)
    losses.add(100_001, 2, 1)
    assert losses.accounts == {7: (2, 5), 100_001: (2, 1)}
