"""Sending mail by SMTP."""

import asyncio
import email.policy
import ssl
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import formatdate, make_msgid, parseaddr

import msgspec

from tollbridge.errors import TollbridgeError

TIMEOUT_S = 30.0
# What Python's parser of addresses raises besides ValueError, for `.ada@example.com` or `[@example.com`.
UNWRITABLE = (MessageError, AttributeError, IndexError)


class MailFailed(TollbridgeError):
    """A mail was not accepted; the message says why, without the mail's text."""


class Smtp(msgspec.Struct, frozen=True, kw_only=True):
    """A server that accepts mail. `security`: starttls, tls or none; `sender`: as in `From`."""

    host: str
    port: int
    security: str
    username: str | None
    password: str | None
    sender: str

    def __repr__(self) -> str:
        return f"Smtp({self.host}:{self.port})"

    async def send(self, recipient: str, subject: str, text: str) -> None:
        """Hand over one mail; raises `MailFailed`."""
        import aiosmtplib  # costs 50 ms, and most gateways send nothing while they start

        try:
            message = compose(self.sender, recipient, subject, text)
            # It reads all certificates of the system, for 20 ms.
            tls = await asyncio.to_thread(ssl.create_default_context) if self.security != "none" else None
            await aiosmtplib.send(
                message,
                hostname=self.host,
                port=self.port,
                username=self.username,
                password=self.password,
                use_tls=self.security == "tls",
                start_tls=self.security == "starttls",
                tls_context=tls,
                timeout=TIMEOUT_S,
            )
        except (aiosmtplib.SMTPException, OSError, ValueError, *UNWRITABLE) as error:
            raise MailFailed(" ".join(str(error).split())[:300] or type(error).__name__) from error


def compose(sender: str, recipient: str, subject: str, text: str) -> EmailMessage:
    """A mail in plain text. ValueError, `UNWRITABLE`: an address or the subject is not allowed in a header."""
    message = EmailMessage(policy=email.policy.SMTP)
    name, address = parseaddr(sender)
    message["From"] = Address(name, addr_spec=address)
    message["To"] = Address(addr_spec=recipient)
    message["Subject"] = subject
    message["Date"] = formatdate()
    message["Message-ID"] = make_msgid(domain=address.rpartition("@")[2])
    # Auto-responders should not answer this mail.
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text)
    return message
