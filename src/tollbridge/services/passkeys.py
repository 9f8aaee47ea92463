"""Passkeys (WebAuthn): a device proves that it is there and that its owner unlocked it, which counts as two factors.

Each ceremony answers a challenge of ours that is good once, for five minutes, and is kept sealed in the browser.
"""

import asyncio
import base64
import importlib
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tollbridge.core import cbor
from tollbridge.core.words import read_whole
from tollbridge.errors import ConfigError, InvalidRequest, NotFound
from tollbridge.services import deeds, letters, login, sessions, throttle
from tollbridge.services.desk import Desk
from tollbridge.services.login import Entered
from tollbridge.services.sessions import Client, Presence
from tollbridge.services.throttle import Limit
from tollbridge.store import passkeys, users
from tollbridge.store.db import Duplicate, Transaction, run
from tollbridge.values import DAY_MS, MINUTE_MS

PATIENCE_MS = 5 * MINUTE_MS
MOST_PASSKEYS = 20
_ONCE = Limit(1, DAY_MS)
_LONGEST_LABEL = 60
# The largest keys, which withstand quantum computers, have 2 KiB, and we do not ask for certificates of the device.
_MOST_BYTES = 16 * 1024
# Where authenticator data has its flags, and what follows its fixed part (WebAuthn, section 6.1).
_FLAGS, _FIXED, _HAS_KEY, _AAGUID, _LENGTH = 32, 37, 0x40, 16, 2
_REFUSED = "This passkey was not accepted. Please try again."


class Challenge(msgspec.Struct, frozen=True):
    """What the device signs. `user`: the user who adds a passkey; 0: a log-in."""

    text: str
    user: int
    until: int


class Asked(msgspec.Struct, frozen=True):
    """What the browser's `navigator.credentials` needs, and what it returns along with the answer."""

    options: bytes
    sealed: str


def place(desk: Desk) -> tuple[str, str]:
    """The name that passkeys are bound to, and the origin. This machine is `localhost`: no IP addresses are allowed."""
    parts = urlsplit(desk.url)
    name = parts.hostname or ""
    if name in {"127.0.0.1", "::1"}:
        port = f":{parts.port}" if parts.port else ""
        return "localhost", f"{parts.scheme}://localhost{port}"
    return name, desk.url


async def ask_new(desk: Desk, presence: Presence) -> Asked:
    """A challenge for a new passkey of a user."""
    webauthn = await _library()
    structs = webauthn.helpers.structs
    known = await passkeys.of_user(desk.database, presence.user.id)
    if len(known) >= MOST_PASSKEYS:
        raise InvalidRequest("You have as many passkeys as are allowed: remove one first.")
    challenge = await _challenge(desk, presence.user.id)
    options = webauthn.generate_registration_options(
        rp_id=place(desk)[0],
        rp_name=desk.settings.brand.name,
        user_id=presence.user.public_id.encode(),
        user_name=presence.user.email,
        challenge=_bytes(challenge),
        authenticator_selection=structs.AuthenticatorSelectionCriteria(
            resident_key=structs.ResidentKeyRequirement.REQUIRED,
            user_verification=structs.UserVerificationRequirement.REQUIRED,
        ),
        exclude_credentials=[structs.PublicKeyCredentialDescriptor(id=each.credential) for each in known],
    )
    return Asked(webauthn.options_to_json(options).encode(), _seal(desk, challenge))


async def add(desk: Desk, presence: Presence, sealed: str, credential: Any, label: str, client: Client) -> None:
    """Take a new passkey; raises `InvalidRequest`."""
    webauthn = await _library()
    challenge = await _spend(desk, sealed, presence.user.id)
    name, origin = place(desk)
    if not isinstance(credential, dict):
        raise InvalidRequest(_REFUSED)
    try:
        read = webauthn.helpers.parse_registration_credential_json(credential)
        _check_attestation(read.response.attestation_object)
        made = webauthn.verify_registration_response(
            credential=read,
            expected_challenge=_bytes(challenge),
            expected_rp_id=name,
            expected_origin=origin,
            require_user_verification=True,
        )
    except (webauthn.helpers.exceptions.WebAuthnException, ValueError, TypeError, KeyError) as error:
        raise InvalidRequest(_REFUSED) from error
    now = await desk.database.now()
    row = (made.credential_id, made.credential_public_key, made.sign_count)
    text = "".join(each for each in label if each.isprintable()).strip()[:_LONGEST_LABEL] or "Passkey"

    letter = letters.way_in(desk, presence.user.email, "A passkey was added")

    async def use_case(transaction: Transaction) -> None:
        await sessions.keep(transaction, presence, now)
        await passkeys.add(transaction, presence.user.id, row, text, now)
        await deeds.note_of_user(transaction, presence.user, "passkey.added", client, now)
        await desk.post.put(transaction, letter, now)

    try:
        await run(desk.database, use_case)
    except Duplicate:
        raise InvalidRequest("This passkey has already been added.") from None
    desk.post.hurry(letter)


async def remove(desk: Desk, presence: Presence, passkey: str, client: Client) -> None:
    """NotFound; InvalidRequest: they have no other way in."""
    id_ = read_whole(passkey) or 0  # which none has
    now = await desk.database.now()
    letter = letters.way_in(desk, presence.user.email, "A passkey was removed")

    async def use_case(transaction: Transaction) -> bool:
        removed = await passkeys.remove(transaction, presence.user.id, id_)
        if removed:
            await login.keep_a_way_in(transaction, presence.user)
            await deeds.note_of_user(transaction, presence.user, "passkey.removed", client, now)
            await desk.post.put(transaction, letter, now)
        return removed

    if not await run(desk.database, use_case):
        raise NotFound("There is no such passkey.")
    desk.post.hurry(letter)


async def ask_log_in(desk: Desk) -> Asked:
    """A challenge for a log-in with any passkey that the device has for this place."""
    webauthn = await _library()
    challenge = await _challenge(desk, 0)
    options = webauthn.generate_authentication_options(
        rp_id=place(desk)[0],
        challenge=_bytes(challenge),
        user_verification=webauthn.helpers.structs.UserVerificationRequirement.REQUIRED,
    )
    return Asked(webauthn.options_to_json(options).encode(), _seal(desk, challenge))


async def log_in(desk: Desk, sealed: str, credential: Any, client: Client) -> Entered:
    """Let in the owner of the passkey. Raises `InvalidRequest`, `RateLimited`."""
    await throttle.check_client(desk.database, client.address, await desk.database.now())
    webauthn = await _library()
    challenge = await _spend(desk, sealed, 0)
    known = await passkeys.find(desk.database, _credential_id(credential))
    if known is None:
        raise InvalidRequest(_REFUSED)
    name, origin = place(desk)
    try:
        read = webauthn.helpers.parse_authentication_credential_json(credential)
        _check_data(read.response.authenticator_data)
        proof = webauthn.verify_authentication_response(
            credential=read,
            expected_challenge=_bytes(challenge),
            expected_rp_id=name,
            expected_origin=origin,
            credential_public_key=known.public_key,
            credential_current_sign_count=known.counter,
            require_user_verification=True,
        )
    except (webauthn.helpers.exceptions.WebAuthnException, ValueError, TypeError, KeyError) as error:
        raise InvalidRequest(_REFUSED) from error
    now = await desk.database.now()
    await throttle.opened_client(desk.database, client.address)
    await run(desk.database, lambda transaction: passkeys.used(transaction, known.id, proof.new_sign_count, now))
    user = await users.by_id(desk.database, known.user_id)
    if user is None:
        raise InvalidRequest(_REFUSED)
    return await login.enter(desk, user, client, factors=2)


async def _library() -> Any:
    """Loading it takes a quarter of a second, once, and nobody else should wait for that."""
    return await asyncio.to_thread(importlib.import_module, "webauthn")


def _check_attestation(data: bytes) -> None:
    """ValueError: the library had better not decode this."""
    if len(data) > _MOST_BYTES:
        raise ValueError("more than authenticators write")
    found, end = cbor.read(data)
    if end != len(data) or not isinstance(found, dict) or not isinstance(found.get("authData"), bytes):
        raise ValueError("not what an authenticator writes about a new key")
    _check_data(found["authData"])


def _check_data(data: bytes) -> None:
    """As `_check_attestation`, for authenticator data: a key and extensions, if any, follow its fixed part."""
    if not _FIXED <= len(data) <= _MOST_BYTES:
        raise ValueError("not as long as what authenticators write")
    at = _FIXED
    if data[_FLAGS] & _HAS_KEY:
        at += _AAGUID
        at += _LENGTH + int.from_bytes(data[at : at + _LENGTH])
        key, at = cbor.read(data, at)
        if not isinstance(key, dict):
            raise ValueError("no key")
    while at < len(data):
        _, at = cbor.read(data, at)


async def _challenge(desk: Desk, user: int) -> Challenge:
    return Challenge(sessions.new_token(), user, await desk.database.now() + PATIENCE_MS)


def _seal(desk: Desk, challenge: Challenge) -> str:
    return base64.urlsafe_b64encode(desk.master.seal("passkey", msgspec.json.encode(challenge))).decode()


async def _spend(desk: Desk, sealed: str, user: int) -> Challenge:
    """The challenge, if it is this user's and has not been answered before."""
    try:
        opened = desk.master.open("passkey", base64.urlsafe_b64decode(sealed))
        challenge = msgspec.json.decode(opened, type=Challenge)
    except (ValueError, ConfigError, msgspec.MsgspecError):
        raise InvalidRequest(_REFUSED) from None
    now = await desk.database.now()
    fresh = challenge.user == user and challenge.until > now
    if not fresh or not await throttle.spend(desk.database, "passkey", challenge.text, _ONCE, now):
        raise InvalidRequest("This took too long. Please try again.")
    return challenge


def _bytes(challenge: Challenge) -> bytes:
    return challenge.text.encode()


def _credential_id(credential: Any) -> bytes:
    raw = credential.get("rawId") if isinstance(credential, dict) else None
    try:
        return base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4)) if isinstance(raw, str) else b""
    except ValueError:
        return b""
