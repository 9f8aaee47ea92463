"""The mails that are sent, as text. Links are built only from the gateway's own address."""

from urllib.parse import quote

from tollbridge.services.desk import Desk
from tollbridge.services.mail import Mail


def verify(desk: Desk, recipient: str, token: str) -> Mail:
    return _mail(
        desk,
        recipient,
        "Confirm your e-mail address",
        f"Welcome to {_name(desk)}. Confirm that this address is yours:",
        _link(desk, "/auth/verify", token),
        "The link works for 24 hours. If you did not register, do nothing: no account is opened unless you follow it.",
    )


def already_registered(desk: Desk, recipient: str) -> Mail:
    return _mail(
        desk,
        recipient,
        "You already have an account",
        f"Somebody, probably you, tried to register at {_name(desk)} with this address, which already has an account. "
        "Log in, or reset your password:",
        f"{desk.url}/auth/login",
        "If it was not you, you need not do anything.",
    )


def reset(desk: Desk, recipient: str, token: str) -> Mail:
    return _mail(
        desk,
        recipient,
        "Reset your password",
        f"Choose a new password for {_name(desk)}:",
        _link(desk, "/auth/reset", token),
        "The link works once, for an hour. If you did not ask for it, do nothing.",
    )


def confirm_email(desk: Desk, recipient: str, token: str) -> Mail:
    return _mail(
        desk,
        recipient,
        "Confirm your new e-mail address",
        f"Confirm that you want to use this address for {_name(desk)}:",
        _link(desk, "/auth/email", token),
        "The link works for 24 hours. If you did not ask for it, do nothing.",
    )


def moved(desk: Desk, recipient: str, token: str) -> Mail:
    """To who could not reach their account any more, at the address that they told the operator."""
    return _mail(
        desk,
        recipient,
        "Choose a new password",
        f"You asked us to let you log in to {_name(desk)} with this address. Choose a new password, and it is yours:",
        _link(desk, "/auth/reset", token),
        "The link works once, for 24 hours. If you did not ask for it, do nothing.",
    )


def password_changed(desk: Desk, recipient: str) -> Mail:
    """Tell the owner of an account, in case it was not them."""
    return _mail(
        desk,
        recipient,
        "Your password was changed",
        f"Your password at {_name(desk)} was changed. If it was not you, reset your password now:",
        f"{desk.url}/auth/forgot",
        "",
    )


def email_changed(desk: Desk, recipient: str) -> Mail:
    """As `password_changed`, to the address of before: a link for a new password would go to the new one."""
    return _mail(
        desk,
        recipient,
        "Your e-mail address was changed",
        f"Your e-mail address at {_name(desk)} was changed: this one no longer leads to your account. "
        "If it was not you, tell us at once:",
        f"{desk.url}/contact",
        "If it was you, do nothing.",
    )


def way_in(desk: Desk, recipient: str, happened: str) -> Mail:
    """Tell a user what happened to a way to log in as them (`A passkey was added`), in case it was not them."""
    return _mail(
        desk,
        recipient,
        happened,
        f"{happened} for your log-in at {_name(desk)}. If it was not you, reset your password now:",
        f"{desk.url}/auth/forgot",
        "Then check in your settings that all passkeys, other services, sessions and the second factor are yours.",
    )


def invitation(desk: Desk, recipient: str, inviter: str, token: str) -> Mail:
    return _mail(
        desk,
        recipient,
        f"{inviter} invites you",
        f"{inviter} invites you to their account at {_name(desk)}:",
        _link(desk, "/auth/invitation", token),
        "The link works for 7 days.",
    )


def _mail(desk: Desk, recipient: str, subject: str, opening: str, link: str, closing: str) -> Mail:
    text = "\n\n".join(part for part in ("Hello,", opening, f"    {link}", closing, _name(desk)) if part)
    return Mail(recipient, f"{_name(desk)}: {subject}", f"{text}\n")


def _link(desk: Desk, path: str, token: str) -> str:
    return f"{desk.url}{path}?token={quote(token)}"


def _name(desk: Desk) -> str:
    return desk.settings.brand.name
