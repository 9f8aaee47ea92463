"""What does no harm once, and much if it goes on: calls that are only load, and calls that cost more than is paid.

Load is long prompts cut before the first token, calling on after a 429, and wrong keys (docs/operate/limits.md; faults
F12, D11, B2). What is not paid is in docs/billing.md.
"""

from collections import deque
from typing import Generic, TypeVar

Who = TypeVar("Who", int, str)

LONG_PROMPT_TOKENS = 10_000
MOST_CUTS = 20
WINDOW_S = 600.0
MOST_REFUSALS = 1_000
MOST_WRONG_KEYS = 20
REFUSALS_S = 60.0
_ACCOUNTS_KEPT = 10_000
_LOSSES_KEPT = 100_000


class Cuts:
    """Each account's cuts of long prompts in the last ten minutes. `now` is monotonic seconds.

    `latest`, for others to read: the latest cuts of each account that made any, up to one more than is let pass.
    """

    def __init__(self) -> None:
        self.latest: dict[int, deque[float]] = {}

    def note(self, account: int, prompt_tokens: int, now: float) -> None:
        """`account` cut a request of `prompt_tokens` before its first token."""
        if prompt_tokens < LONG_PROMPT_TOKENS:
            return
        latest = self.latest.get(account)
        if latest is None:
            if len(self.latest) >= _ACCOUNTS_KEPT:
                self.latest = {each: cuts for each, cuts in self.latest.items() if cuts[-1] > now - WINDOW_S}
            latest = self.latest[account] = deque(maxlen=MOST_CUTS + 1)
        latest.append(now)

    def cool_down(self, account: int, now: float) -> float:
        """Seconds until `account` may call again; 0 when it may now."""
        latest = self.latest.get(account)
        if latest is None or len(latest) <= MOST_CUTS:
            return 0.0
        return max(0.0, latest[0] + WINDOW_S - now)


class Refusals(Generic[Who]):
    """Refused calls of each account, or from each address, counted by the minute: `most` of them are let pass.

    `now` is monotonic seconds. `minutes`, for others to read: for each, when its minute began and how often it was
    refused.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.minutes: dict[Who, tuple[float, int]] = {}

    def note(self, who: Who, now: float) -> None:
        """`who` was refused."""
        began, count = self.minutes.get(who, (now, 0))
        if now >= began + REFUSALS_S:
            began, count = now, 0
        if not count and len(self.minutes) >= _ACCOUNTS_KEPT:
            self.minutes = {each: known for each, known in self.minutes.items() if known[0] > now - REFUSALS_S}
        self.minutes[who] = (began, count + 1)

    def cool_down(self, who: Who, now: float) -> float:
        """Seconds until `who` is listened to again; 0 when it is now."""
        began, count = self.minutes.get(who, (0.0, 0))
        return max(0.0, began + REFUSALS_S - now) if count > self._most else 0.0


class Losses:
    """What each account got for nothing today, in nano-USD.

    `accounts`, for others to read: the latest day of each account that was given any, and how much.
    """

    def __init__(self) -> None:
        self.accounts: dict[int, tuple[int, int]] = {}

    def may_give(self, account: int, day: int, amount: int, most: int) -> bool:
        """Whether `account` may be given `amount` more on `day`, `most` in all. If True, it is counted as given."""
        if self.given(account, day) + amount > most:
            return False
        self.add(account, day, amount)
        return True

    def given(self, account: int, day: int) -> int:
        known = self.accounts.get(account)
        return known[1] if known is not None and known[0] == day else 0

    def add(self, account: int, day: int, amount: int) -> None:
        given = self.given(account, day) + amount
        if len(self.accounts) >= _LOSSES_KEPT:
            self.accounts = {each: known for each, known in self.accounts.items() if known[0] == day}
        self.accounts[account] = day, given


class Exposures:
    """What each account's running calls may cost beyond their holds, in nano-USD."""

    def __init__(self) -> None:
        self._accounts: dict[int, int] = {}

    def add(self, account: int, amount: int) -> None:
        self._accounts[account] = self._accounts.get(account, 0) + amount

    def end(self, account: int, amount: int) -> None:
        left = self._accounts.pop(account) - amount
        if left:
            self._accounts[account] = left

    def of(self, account: int) -> int:
        return self._accounts.get(account, 0)


class Abuse:
    """All that is counted of it in one process. To read the configuration again begins no new count.

    `guesses` are of addresses that send wrong keys, all else of accounts. `gifts`: answers whose upstream died, and
    unseen thoughts of those that were left. `overruns`: what could not be charged of calls that cost more than was
    held for them. `exposures`: what may become one.
    """

    def __init__(self) -> None:
        self.cuts = Cuts()
        self.refusals = Refusals[int](MOST_REFUSALS)
        self.guesses = Refusals[str](MOST_WRONG_KEYS - 1)
        self.gifts = Losses()
        self.overruns = Losses()
        self.exposures = Exposures()
