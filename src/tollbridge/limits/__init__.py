"""Shared counters of requests, tokens and running calls: `base` what a limiter is, `memory` the one for one process."""
