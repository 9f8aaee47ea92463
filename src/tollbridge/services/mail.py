"""Mail: what is written to whom. It goes out by SMTP, or waits in the outbox for the operator to read."""

import asyncio
import logging
from typing import Protocol

import msgspec

from tollbridge.config import Settings
from tollbridge.errors import TollbridgeError
from tollbridge.mail.smtp import Smtp
from tollbridge.services.secrets import Secrets
from tollbridge.store import mail
from tollbridge.store.db import Database, Transaction, run
from tollbridge.store.mail import Letter
from tollbridge.values import HOUR_MS, MINUTE_MS

log = logging.getLogger("tollbridge")

_BATCH = 20
_POLL_S = 30.0
_FIRST_DELAY_MS = MINUTE_MS
_LONGEST_DELAY_MS = HOUR_MS


class Mail(msgspec.Struct, frozen=True):
    """A mail as written: plain text, with a link on a line of its own."""

    recipient: str
    subject: str
    text: str


class Carrier(Protocol):
    """Takes a mail away; raises `TollbridgeError` if it cannot."""

    async def send(self, recipient: str, subject: str, text: str) -> None: ...


def carrier(settings: Settings) -> Carrier | None:
    """What takes mail away from here, as it is configured; None: nothing does."""
    smtp = settings.mail
    if smtp.host is None:
        return None
    assert smtp.sender is not None
    return Smtp(
        host=smtp.host,
        port=smtp.port,
        security=smtp.security,
        username=smtp.username,
        password=smtp.password.reveal() if smtp.password is not None else None,
        sender=smtp.sender,
    )


class Post:
    """The post office of one process. Without a `carrier`, every mail is logged and stays in the outbox."""

    def __init__(self, database: Database, master: Secrets, carrier: Carrier | None) -> None:
        self._database = database
        self._master = master
        self._carrier = carrier
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def sends(self) -> bool:
        """Whether mail leaves this machine."""
        return self._carrier is not None

    def start(self) -> None:
        if self._carrier is not None:
            self._task = asyncio.get_running_loop().create_task(self._work(self._carrier))

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def put(self, transaction: Transaction, letter: Mail, now: int) -> None:
        """Have it sent if `transaction` commits; call `hurry` after that."""
        letter_id = await mail.put(transaction, letter.recipient, letter.subject, now)
        sealed = self._master.seal(f"outbox/{letter_id}", letter.text.encode())
        await mail.fill(transaction, letter_id, sealed)

    def hurry(self, letter: Mail) -> None:
        """A mail has been put: send it now, or tell the operator."""
        if self._carrier is None:
            log.warning("mail cannot be sent (mail.host is not set): to %s: %s", letter.recipient, _link(letter.text))
        self._wake.set()

    def text(self, letter: Letter) -> str:
        """The text of a mail in the outbox; empty once it has been sent."""
        return self._master.open(f"outbox/{letter.id}", letter.sealed).decode() if letter.sealed else ""

    async def _work(self, carrier: Carrier) -> None:
        while True:
            # First of all: what is put from now on may be missed below.
            self._wake.clear()
            try:
                await self.deliver(carrier)
            except TollbridgeError as error:
                log.warning("mail: %s", error)
            except Exception:
                log.exception("mail failed")
            try:
                async with asyncio.timeout(_POLL_S):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def deliver(self, carrier: Carrier) -> None:
        """Send what is due. A mail that fails is tried again after 1, 2, 4 … minutes, up to an hour."""
        while letters := await mail.due(self._database, await self._database.now(), _BATCH):
            for letter in letters:
                await self._deliver(carrier, letter)

    async def _deliver(self, carrier: Carrier, letter: Letter) -> None:
        now = await self._database.now()
        again = now + min(_LONGEST_DELAY_MS, _FIRST_DELAY_MS << min(letter.tries, 10))
        tries = letter.tries
        if not await run(self._database, lambda transaction: mail.claim(transaction, letter.id, tries, again)):
            return
        try:
            await carrier.send(letter.recipient, letter.subject, self.text(letter))
        except TollbridgeError as error:
            log.warning("mail to %s was not sent: %s", letter.recipient, error)
            await mail.failed(self._database, letter.id, str(error)[:500])
        else:
            await mail.sent(self._database, letter.id, await self._database.now())


def verification_required(settings: Settings) -> bool:
    """Whether users must follow a link before they can log in."""
    wanted = settings.require_verified_email
    return wanted == "always" or (wanted == "auto" and settings.mail.host is not None)


def _link(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if "://" in line), "")
