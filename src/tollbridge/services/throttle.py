"""How often something may be tried: log-ins, sign-ups and mails, counted in the database for all processes.

Nobody can lock somebody else out for good: what a stranger's failures delay is counted per address and account, and a
browser that has logged in before is counted separately (`Door.device`).
"""

import hashlib
from ipaddress import ip_address

import msgspec

from tollbridge.core.addresses import customer_of
from tollbridge.core.words import plural
from tollbridge.errors import RateLimited
from tollbridge.store import throttle
from tollbridge.store.db import Database, Transaction
from tollbridge.values import DAY_MS, HOUR_MS, MINUTE_MS

FREE_FAILURES = 5
LONGEST_DELAY_S = 900
FAILURES_A_MINUTE = 20
# For one account, over all addresses.
FAILURES_A_DAY = 100


class Limit(msgspec.Struct, frozen=True):
    """At most `count` within `window_ms`, starting with the first."""

    count: int
    window_ms: int


SIGN_UPS = Limit(20, HOUR_MS)
MAILS_TO_ADDRESS = Limit(3, HOUR_MS)
MAILS_FROM_ADDRESS = Limit(10, HOUR_MS)
# To other people's addresses, whoever they are.
MAILS_BY_USER = Limit(50, DAY_MS)


class Door(msgspec.Struct, frozen=True, kw_only=True):
    """Where somebody tries to get in. `account`: the address or id that they give; `client`: their network address.

    `device`: their browser has logged in to this account before.
    """

    account: str
    client: str
    device: bool = False

    def names(self) -> tuple[str, str, str]:
        """The counters: this account from here, this account from anywhere, anything from here."""
        client = whose(self.client)
        pair = f"device/{self.account}" if self.device else f"pair/{self.account}/{client}"
        return _name("login", pair), _name("login", f"account/{self.account}"), _from(self.client)


def delay_s(failures: int) -> int:
    """Seconds to wait after this many failures in a row: none up to the fourth, then 1, 2, 4 … 900."""
    excess = failures - FREE_FAILURES
    return min(LONGEST_DELAY_S, 1 << min(excess, 30)) if excess >= 0 else 0


async def check_door(database: Database, door: Door, now: int) -> None:
    """Count a try, as one that fails until it is `opened`. RateLimited, with the seconds to wait: it is too early."""
    pair, account, client = door.names()
    failures, last = await throttle.count(database, pair, DAY_MS, now)
    wait = last + delay_s(failures) * 1000 - now if failures else 0
    from_here, _ = await throttle.count(database, client, MINUTE_MS, now)
    if from_here >= FAILURES_A_MINUTE and not is_local(door.client):
        wait = max(wait, MINUTE_MS)
    if not door.device:
        anywhere, _ = await throttle.count(database, account, DAY_MS, now)
        if anywhere >= FAILURES_A_DAY:
            wait = max(wait, HOUR_MS)
    if wait <= 0:
        # Of many at once, all of which read the same count, only as many are let in as one after the other.
        earlier = await throttle.add(database, pair, DAY_MS, now) - 1
        wait = delay_s(earlier) * 1000 if earlier > failures else 0
    if wait <= 0 and not door.device and await throttle.add(database, account, DAY_MS, now) > FAILURES_A_DAY:
        wait = HOUR_MS
    if wait > 0:
        raise too_many("Too many failed log-ins", wait)


async def failed(database: Database, door: Door, now: int) -> None:
    """Count what `check_door` has let in for its network address too."""
    await throttle.add(database, door.names()[2], MINUTE_MS, now)


async def opened(database: Database, door: Door) -> None:
    """What `check_door` has let in was no failure."""
    pair, account, _ = door.names()
    await throttle.clear(database, pair)
    if not door.device:
        await throttle.take_back(database, account)


async def check_client(database: Database, address: str, now: int) -> None:
    """As `check_door`, where nobody says whose account it is: by a passkey, or by another service."""
    if is_local(address):
        return
    name = _from(address)
    tried, _ = await throttle.count(database, name, MINUTE_MS, now)
    if tried >= FAILURES_A_MINUTE or await throttle.add(database, name, MINUTE_MS, now) > FAILURES_A_MINUTE:
        raise too_many("Too many failed log-ins", MINUTE_MS)


async def opened_client(database: Database, address: str) -> None:
    """What `check_client` has let in was no failure."""
    if not is_local(address):
        await throttle.take_back(database, _from(address))


async def spend(database: Transaction, what: str, who: str, limit: Limit, now: int) -> bool:
    """Count one more `what` by `who`; whether it is within the limit."""
    return await throttle.add(database, _name(what, who), limit.window_ms, now) <= limit.count


def too_many(what: str, wait_ms: int) -> RateLimited:
    seconds = -(-wait_ms // 1000)
    minutes = -(-seconds // 60)
    shown = f"{-(-minutes // 60)} hours"
    if minutes < 120:
        shown = plural(seconds, "second") if seconds < 120 else f"{minutes} minutes"
    return RateLimited(f"{what}. Please try again in {shown}.", headers={"retry-after": str(seconds)})


async def spend_mail(database: Database, sender: str, address: str, now: int) -> None:
    """Count a mail that a user sends to somebody else's address. RateLimited: the sender, or the address, has had many.

    `sender`: the user's public id.
    """
    # In this order: a sender at their limit must not use up what the address may receive.
    if not await spend(database, "mail-by", sender, MAILS_BY_USER, now):
        raise too_many("You have had many mails sent to others today", DAY_MS)
    if not await spend(database, "mail-to", address, MAILS_TO_ADDRESS, now):
        raise too_many("Too many mails to this address", HOUR_MS)


def whose(address: str) -> str:
    """The unit by which clients at this network address are counted: for IPv6, everybody has a whole /64."""
    try:
        return customer_of(address)
    except ValueError:
        return address


def taker(address: str) -> str:
    """As whom a client counts where nobody may take everything; "" for one who may stand for many."""
    return "" if is_local(address) else whose(address)


def is_local(address: str) -> bool:
    """Whether it is this machine: a proxy not named in `server.trusted_proxies`, or somebody trying things out."""
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return True


def _from(address: str) -> str:
    return _name("login", f"from/{whose(address)}")


def _name(what: str, who: str) -> str:
    return f"{what}/{hashlib.sha256(who.encode()).hexdigest()[:32]}"
