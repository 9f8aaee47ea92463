"""What the operator set about money, and about failures of providers."""

import msgspec

from tollbridge.core import pricing
from tollbridge.errors import Unavailable, UpstreamFailed


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator set about money, in nano-USD, and about failures of providers, as HTTP statuses."""

    cost_cap: int
    default_hold_tokens: int
    strict_holds: bool = False
    charge_partial: bool = False
    free_loss_per_day: int = 0
    silence_ms: int = pricing.SILENCE_IS_UPSTREAMS_FAULT_MS
    upstream_failed_status: int = UpstreamFailed.status
    no_provider_status: int = Unavailable.status
