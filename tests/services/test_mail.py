"""The outbox: nothing is lost, nothing is sent twice, nothing of it can be read in the database."""

import asyncio
import logging
from typing import Any

import pytest
from tests.services.conftest import MASTER, World

from tollbridge.errors import TollbridgeError
from tollbridge.mail.smtp import compose
from tollbridge.services.mail import Mail, Post
from tollbridge.store import mail
from tollbridge.store.db import Database, run

LETTER = Mail("ada@example.com", "Hello", "Hello,\n\n    https://example.com/auth/reset?token=secret-token\n")


class Carrier:
    """Takes mail, or says why not."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.taken: list[str] = []

    async def send(self, recipient: str, subject: str, text: str) -> None:
        if self.failures:
            self.failures -= 1
            raise TollbridgeError("the mail server is away")
        self.taken.append(text)


async def put(database: Database, post: Post) -> None:
    now = await database.now()
    await run(database, lambda transaction: post.put(transaction, LETTER, now))


def test_a_mail_is_sent_once_and_forgotten(world: World) -> None:
    async def use(database: Database) -> None:
        carrier = Carrier()
        posts = [Post(database, MASTER, carrier) for _ in range(2)]
        await put(database, posts[0])
        [waiting] = await mail.latest(database, 10)
        assert b"secret-token" not in (waiting.sealed or b"")
        assert posts[0].text(waiting) == LETTER.text
        await asyncio.gather(*(post.deliver(carrier) for post in posts))
        assert carrier.taken == [LETTER.text]
        [sent] = await mail.latest(database, 10)
        assert sent.sent_at is not None
        assert sent.sealed is None
        assert posts[0].text(sent) == ""

    world.run(use)


def test_a_mail_that_does_not_leave_is_tried_again_later(sqlite_world: World) -> None:
    async def use(database: Database) -> None:
        carrier = Carrier(failures=2)
        post = Post(database, MASTER, carrier)
        await put(database, post)
        await post.deliver(carrier)
        [letter] = await mail.latest(database, 10)
        assert (letter.error, letter.tries, letter.sent_at) == ("the mail server is away", 1, None)
        assert 50_000 < letter.next_at - await database.now() <= 60_000
        await post.deliver(carrier)
        assert carrier.failures == 1
        for _ in range(2):
            await database.execute("UPDATE outbox SET next_at = 0")
            await post.deliver(carrier)
        assert carrier.taken == [LETTER.text]

    sqlite_world.run(use)


def test_a_mail_put_while_the_outbox_is_read_does_not_wait_for_the_next_round(
    sqlite_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(database: Database) -> None:
        carrier, due = Carrier(), mail.due
        post = Post(database, MASTER, carrier)

        async def read_too_early(*asked: Any) -> list[mail.Letter]:
            found = await due(*asked)
            if not await mail.latest(database, 1):
                await put(database, post)
                post.hurry(LETTER)
            return found

        monkeypatch.setattr(mail, "due", read_too_early)
        post.start()
        async with asyncio.timeout(10):
            while not carrier.taken:  # noqa: ASYNC110 - a mail
                await asyncio.sleep(0.01)
        await post.stop()

    sqlite_world.run(use)


def test_without_a_server_the_link_is_in_the_log(sqlite_world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def use(database: Database) -> None:
        post = Post(database, MASTER, None)
        assert not post.sends
        await put(database, post)
        with caplog.at_level(logging.WARNING):
            post.hurry(LETTER)
        assert "ada@example.com: https://example.com/auth/reset?token=secret-token" in caplog.text

    sqlite_world.run(use)


@pytest.mark.parametrize("recipient", ["ada@example.com\r\nBcc: eve@example.com", "ada@example.com, eve@example.com"])
def test_nobody_gets_a_header_of_their_own_into_a_mail(recipient: str) -> None:
    with pytest.raises(ValueError):
        compose("Tollbridge <no-reply@example.com>", recipient, "Hello", "Hello")
    with pytest.raises(ValueError):
        compose("Tollbridge <no-reply@example.com>", "ada@example.com", "Hello\r\nBcc: eve@example.com", "Hello")
