"""SQL, and nothing else.

`tables` the schema (for migrations and tests; importing it loads SQLAlchemy, which `serve` must not) · `db` how to
reach either database · `accounts`, `keys`, `usage`, `processes`, `prices` the statements that are not hot, `rows` how
what they give is read · `ledger` the hot ones, written by hand · `migrations` how the schema came to be · `verify` the
proof of the books, `audit` the same beside a serving gateway.
"""
