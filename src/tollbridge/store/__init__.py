"""SQL, and nothing else.

- The ground: `tables` the schema (for migrations and tests; importing it loads SQLAlchemy, which `serve` must not) ·
  `migrations` how it came to be · `schema` whether a database has it · `db` access to either database · `rows` how
  results become values.
- The books: `ledger` the hot statements, written by hand · `journal` transactions from outside the request path ·
  `processes` who holds what · `seal` and `retention` what becomes of old rows · `verify` the proof of it all, `audit`
  the same proof beside a serving gateway.
- Sums of usage: `rollups` per account, `usage_days` across accounts.
- All other modules: the statements that are not hot, one module for each thing they are about.
"""
