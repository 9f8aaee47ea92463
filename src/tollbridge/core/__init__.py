"""The rules, without the world: no I/O, clock, randomness, environment, logging or settings.

Time and ids are arguments. `money` amounts and rounding · `ledger` what an operation does to the books · `pricing`
bounds and charges · `tokens` local counts · `catalog` which models there are · `routing` which route first · `retry`
whether and where to try again · `keys` the form of an API key · `plans` what a plan allows.
"""
