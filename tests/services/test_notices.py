"""When pages warn that little credit is left, and what may be chosen."""

import pytest
from tests.services.conftest import World
from tests.services.test_accounts import make

from tollbridge.core.ledger import MAX_AMOUNT
from tollbridge.errors import InvalidRequest
from tollbridge.services import accounts, notices
from tollbridge.store.accounts import Account
from tollbridge.store.db import Database


@pytest.mark.parametrize(
    ("paid", "promo", "held", "alert", "low"),
    [
        (5, 0, 0, None, False),
        (4, 0, 0, None, True),
        (9, 0, 5, None, True),
        (1, 9, 0, None, False),
        # Who never bought any is warned when all is gone.
        (0, 3, 0, None, False),
        (0, 3, 3, None, True),
        (-1, 0, 0, None, True),
        # Who chose a threshold is warned below that.
        (4, 0, 0, 4, False),
        (0, 9, 0, 10, True),
        (0, 0, 0, 0, False),
    ],
)
def test_pages_warn_below_the_highest_threshold_or_the_accounts_own(
    paid: int, promo: int, held: int, alert: int | None, low: bool
) -> None:
    account = Account(
        id=1,
        public_id="acct_1",
        email="ada@example.com",
        plan="default",
        created_at=1,
        paid=paid,
        promo=promo,
        held=held,
        frozen=False,
        alert=alert,
    )
    assert notices.is_low(account, (1, 5)) is low


def test_where_the_operator_wants_no_warnings_pages_warn_when_all_is_gone(sqlite_world: World) -> None:
    async def use(database: Database) -> None:
        assert notices.is_low(await make(database), ())
        assert not notices.is_low(await make(database, "eve@example.com", credit=1), ())

    sqlite_world.run(use)


def test_a_threshold_is_what_an_account_can_hold_or_nothing(sqlite_world: World) -> None:
    async def use(database: Database) -> None:
        account = await make(database)
        for wrong in (-1, MAX_AMOUNT):
            with pytest.raises(InvalidRequest, match="a threshold is 0"):
                await notices.choose_threshold(database, account, wrong)
        for wanted in (0, MAX_AMOUNT - 1, None):
            await notices.choose_threshold(database, account, wanted)
            assert (await accounts.get(database, account.email)).alert == wanted

    sqlite_world.run(use)
