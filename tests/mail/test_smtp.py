"""Handing mail over: what is sent, and what is said when it is not taken."""

import asyncio
import socket
from email.message import Message
from typing import Any

import pytest
from aiosmtpd.controller import UnthreadedController
from aiosmtpd.handlers import Message as MessageHandler

from tollbridge.mail.smtp import MailFailed, Smtp, compose
from tollbridge.services import accounts

SENDER = "Tollbridge <no-reply@example.com>"


class Mailbox(MessageHandler):
    def __init__(self) -> None:
        super().__init__()
        self.letters: list[Message] = []

    def handle_message(self, message: Message) -> None:
        self.letters.append(message)


def smtp(port: int, security: str = "none") -> Smtp:
    return Smtp(host="127.0.0.1", port=port, security=security, username=None, password=None, sender=SENDER)


def test_a_mail_arrives_as_it_was_written() -> None:
    async def test() -> None:
        mailbox = Mailbox()
        controller: Any = UnthreadedController(mailbox, loop=asyncio.get_running_loop())
        server = await asyncio.get_running_loop().create_server(controller._factory_invoker, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        await smtp(port).send("ada@example.com", "Grüße", "Hello,\n\n    https://example.com/" + "x" * 100 + "\n")
        # A server that offers no TLS is given nothing.
        with pytest.raises(MailFailed, match="STARTTLS"):
            await smtp(port, "starttls").send("ada@example.com", "Hello", "Hello")
        server.close()
        await server.wait_closed()
        [letter] = mailbox.letters
        body = letter.get_payload(decode=True)
        assert isinstance(body, bytes)
        assert "https://example.com/" + "x" * 100 in body.decode()
        assert letter["From"] == SENDER
        assert letter["Auto-Submitted"] == "auto-generated"
        assert letter["Message-ID"].endswith("@example.com>")

    asyncio.run(test())


def test_a_server_that_is_away_is_a_failure_that_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(MailFailed, match=str(port)):
        asyncio.run(smtp(port).send("ada@example.com", "Hello", "Hello"))


@pytest.mark.parametrize(
    "address",
    [".ada@example.com", "ada..b@example.com", "[@example.com", "?#b?=@[.a", "é@example.com", "ada@a..b"],
)
def test_an_address_that_no_mail_can_go_to_is_a_failure_like_any_other(address: str) -> None:
    accounts.normalise(address)  # somebody may register with it
    with pytest.raises(MailFailed):
        asyncio.run(smtp(1).send(address, "Hello", "Hello"))


def test_a_mail_names_its_recipient_and_hides_the_password() -> None:
    message = compose(SENDER, "ada@example.com", "Hello", "Hello")
    assert message["To"] == "ada@example.com"
    secret = Smtp(host="h", port=25, security="tls", username="u", password="hidden-password", sender=SENDER)
    assert "hidden-password" not in repr(secret)
