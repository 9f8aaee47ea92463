"""Calls that are only load: long prompts cut before the first token, calling on after a 429, wrong keys.

The first pay for their prompt (docs/billing.md), the others cost nothing (docs/operate/limits.md): a single one does no
harm. Faults F12, D11, B2.
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


class Abuse:
    """All that is counted of it in one process. To read the configuration again begins no new count.

    `cuts` and `refusals` are of accounts, `guesses` of addresses that send wrong keys.
    """

    def __init__(self) -> None:
        self.cuts = Cuts()
        self.refusals = Refusals[int](MOST_REFUSALS)
        self.guesses = Refusals[str](MOST_WRONG_KEYS - 1)
