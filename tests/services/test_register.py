"""Who signs up, and what they are given."""

import random
from collections import Counter
from pathlib import Path

import pytest
from tests.services.conftest import MASTER, World

from tollbridge.config import Source, read
from tollbridge.services.accounts import mailable
from tollbridge.services.desk import Desk
from tollbridge.services.mail import Post
from tollbridge.services.passwords import Passwords
from tollbridge.services.register import GRANTS_TO_CLIENT, GRANTS_TO_DOMAIN, first_credit, mailbox
from tollbridge.services.sessions import Client
from tollbridge.store.db import Database

DAY = 20_000 * 86_400_000


@pytest.mark.parametrize("sign_ups", [150, pytest.param(1_000, marks=pytest.mark.soak)])
def test_who_signs_up_again_and_again_is_given_no_more_than_the_caps(sqlite_world: World, sign_ups: int) -> None:
    """B19: from some addresses of the network, with variants of some mailboxes of two domains, in one day."""
    config = Path(sqlite_world.directory, "tollbridge.toml")
    config.write_text('[billing]\nsignup_grant_usd = "0.50"\n')
    settings = read(Source(path=config), {})
    chance = random.Random(sign_ups)

    async def use(database: Database) -> None:
        desk = Desk(database, MASTER, Passwords(), Post(database, MASTER, None), "http://localhost", lambda: settings)
        to_client: Counter[str] = Counter()
        to_domain: Counter[str] = Counter()
        to_mailbox: Counter[str] = Counter()
        for number in range(sign_ups):
            address = f"203.0.113.{chance.randrange(200)}"
            name, domain = f"u{chance.randrange(sign_ups)}", chance.choice(("gmail.com", "farm.example"))
            email = f"{chance.choice((name, name[:1] + '.' + name[1:]))}+{number}@{domain}"
            given = await first_credit(desk, email, Client(address, ""), DAY + number)
            if given:
                assert given == 500_000_000
                to_client[address] += 1
                to_domain[domain] += 1
                to_mailbox[mailbox(email)] += 1
        assert to_client
        assert max(to_client.values()) <= GRANTS_TO_CLIENT.count
        assert max(to_domain.values()) <= GRANTS_TO_DOMAIN.count
        assert set(to_mailbox.values()) == {1}

    sqlite_world.run(use)


@pytest.mark.parametrize(
    "email",
    ["me@ｇmail.com", "m.e+tag@ＧＭＡＩＬ.com", "me@gmail\ufe0f.com", "me@gm\u034fail.com", "me@googlemail.com"],
)
def test_an_address_that_mail_servers_read_as_anothers_has_the_same_mailbox(email: str) -> None:
    assert mailbox(mailable(email)) == "me@gmail.com"
    assert mailbox("me@bücher.example") == mailbox("me@xn--bcher-kva.example") != mailbox("me@bucher.example")
    # What is no name at all is a mailbox of its own.
    assert mailbox(f"me@{'ü' * 63}.example") == f"me@{'ü' * 63}.example"
