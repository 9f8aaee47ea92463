"""The rules, without the world: no I/O, clock, randomness, environment, logging or settings. Time and ids are
arguments.

Money     `money` amounts and rounding · `ledger` what an operation does to the books · `pricing` bounds and charges ·
          `tokens` local counts · `payments`, `subscriptions` what a processor's news do · `periods` days, weeks, months
Models    `catalog` which models there are · `listing` how people see them
Calls     `routing` which route first · `retry` whether and where to try again · `abuse` who must cool down ·
          `means` what is usual · `addresses` where a URL may lead, and who is calling
People    `plans` what a plan allows · `roles` what a member may do · `keys` the form of an API key ·
          `ids` public ids of requests · `jwt`, `totp`, `cbor` proofs of who logs in · `words` numbers in sentences
"""
