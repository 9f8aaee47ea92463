"""Long prompts that are cut before the first token, again and again: load for the providers, and use to nobody.

Each of them pays for its prompt (docs/billing.md), so that nothing is lost by one. Fault F12.
"""

from collections import deque

LONG_PROMPT_TOKENS = 10_000
MOST_CUTS = 20
WINDOW_S = 600.0
_ACCOUNTS_KEPT = 10_000


class Cuts:
    """Such cuts of each account in the last ten minutes. `now` is monotonic seconds."""

    def __init__(self) -> None:
        # The latest of each account: one more than are let pass is all that has to be known.
        self._latest: dict[int, deque[float]] = {}

    def note(self, account: int, prompt_tokens: int, now: float) -> None:
        """`account` cut a request of `prompt_tokens` before its first token."""
        if prompt_tokens < LONG_PROMPT_TOKENS:
            return
        latest = self._latest.get(account)
        if latest is None:
            if len(self._latest) >= _ACCOUNTS_KEPT:
                self._latest = {each: cuts for each, cuts in self._latest.items() if cuts[-1] > now - WINDOW_S}
            latest = self._latest[account] = deque(maxlen=MOST_CUTS + 1)
        latest.append(now)

    def cool_down(self, account: int, now: float) -> float:
        """Seconds until `account` may call again; 0 when it may now."""
        latest = self._latest.get(account)
        if latest is None or len(latest) <= MOST_CUTS:
            return 0.0
        return max(0.0, latest[0] + WINDOW_S - now)
