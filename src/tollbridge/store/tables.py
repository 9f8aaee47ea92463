"""The schema, once, for both databases. Statements elsewhere are checked against it by a test.

Amounts are nano-USD, times milliseconds since the epoch. A hot row is small: 64-bit ids, no text ids, no copied prices.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)

metadata = MetaData()

# SQLite gives a row id for free only to a column declared INTEGER; PostgreSQL needs 64 bits said.
Id = BigInteger().with_variant(Integer(), "sqlite")
_STRICT = {"sqlite_strict": True}

meta = Table(
    "meta",
    metadata,
    # `cache_epoch`: raised by whoever changes a key, an account or a plan, polled by whoever caches them.
    Column("name", Text, primary_key=True),
    Column("value", BigInteger, nullable=False),
    **_STRICT,
)

process = Table(
    "process",
    metadata,
    Column("epoch", Id, primary_key=True, autoincrement=True),
    Column("host", Text, nullable=False),
    Column("pid", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("heartbeat_at", BigInteger, nullable=False),
    Column("stopped_at", BigInteger),
    # Set before its holds are swept: from then on a hold of this epoch is refused (`fenced`).
    Column("fenced_at", BigInteger),
    Column("swept_at", BigInteger),
    **_STRICT,
)

account = Table(
    "account",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("email", Text, nullable=False, unique=True),
    Column("plan", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("email_verified_at", BigInteger),
    **_STRICT,
)

balance = Table(
    "balance",
    metadata,
    Column("account_id", Id, ForeignKey("account.id"), primary_key=True, autoincrement=False),
    Column("paid", BigInteger, nullable=False),
    Column("promo", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("frozen", Boolean().with_variant(Integer(), "sqlite"), nullable=False),
    CheckConstraint("held >= 0", name="balance_held_not_negative"),
    CheckConstraint("promo >= 0", name="balance_promo_not_negative"),
    **_STRICT,
)

api_key = Table(
    "api_key",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("account_id", Id, ForeignKey("account.id"), nullable=False, index=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("pepper_id", SmallInteger, nullable=False),
    # What may be shown of it later: prefix and the last four characters.
    Column("hint", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("limit_nano", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revoked_at", BigInteger),
    **_STRICT,
)

key_spend = Table(
    "key_spend",
    metadata,
    # Only for keys with a limit: an unlimited key costs no row.
    Column("key_id", Id, ForeignKey("api_key.id"), primary_key=True, autoincrement=False),
    Column("spent", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    CheckConstraint("held >= 0", name="key_spend_held_not_negative"),
    **_STRICT,
)

price_version = Table(
    "price_version",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    # SHA-256 of `terms`: the same terms are the same version.
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    # JSON: model, provider, upstream_model, price, cost (pico-USD per token by meter), multiplier_ppm.
    Column("terms", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    **_STRICT,
)

hold = Table(
    "hold",
    metadata,
    # Epoch of the process and a counter: one process's holds are one range. Ended when `usage` has a row of this id.
    Column("id", Id, primary_key=True, autoincrement=False),
    Column("account_id", Id, nullable=False),
    Column("key_id", Id, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("limited", Boolean().with_variant(Integer(), "sqlite"), nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    CheckConstraint("amount >= 0", name="hold_amount_not_negative"),
    **_STRICT,
)

hold_step = Table(
    "hold_step",
    metadata,
    Column("hold_id", Id, primary_key=True, autoincrement=False),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("amount", BigInteger, nullable=False),
    CheckConstraint("amount >= 0", name="hold_step_amount_not_negative"),
    **_STRICT,
)

checkpoint = Table(
    "checkpoint",
    metadata,
    # What a running stream would be charged if its process died now; gone when it ends.
    Column("hold_id", Id, primary_key=True, autoincrement=False),
    Column("charge", BigInteger, nullable=False),
    Column("record", LargeBinary, nullable=False),
    **_STRICT,
)

usage = Table(
    "usage",
    metadata,
    # A hold's end, its journal transaction and the usage record in one row (core.ledger.usage_entries).
    Column("hold_id", Id, primary_key=True, autoincrement=False),
    Column("account_id", Id, nullable=False),
    Column("key_id", Id, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    Column("charge", BigInteger, nullable=False),
    Column("promo", BigInteger, nullable=False),
    Column("loss", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=False),
    Column("price_version", Id, nullable=False),
    Column("input", BigInteger, nullable=False),
    Column("cache_read", BigInteger, nullable=False),
    Column("cache_write", BigInteger, nullable=False),
    Column("cache_write_1h", BigInteger, nullable=False),
    Column("output", BigInteger, nullable=False),
    Column("reasoning", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("duration_ms", BigInteger, nullable=False),
    Column("first_byte_ms", BigInteger),
    Column("outcome", SmallInteger, nullable=False),
    Column("status", SmallInteger, nullable=False),
    # Bits: 1 streamed, 2 estimated, 4 suspect, 8 the key's spend carried it.
    Column("flags", SmallInteger, nullable=False),
    Column("finish", String(32)),
    Column("raw", LargeBinary),
    Column("attempts", LargeBinary),
    CheckConstraint("charge >= 0 AND promo >= 0 AND loss >= 0 AND promo <= charge", name="usage_amounts"),
    Index("usage_by_account", "account_id", "ended_at"),
    **_STRICT,
)

journal = Table(
    "journal",
    metadata,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("idempotency_key", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("account_id", Id, nullable=False, index=True),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    **_STRICT,
)

entry = Table(
    "entry",
    metadata,
    Column("journal_id", Id, ForeignKey("journal.id"), primary_key=True, autoincrement=False),
    Column("line", SmallInteger, primary_key=True, autoincrement=False),
    Column("book", Text, nullable=False),
    Column("amount", BigInteger, nullable=False),
    **_STRICT,
)

seal = Table(
    "seal",
    metadata,
    # A closed range of one kind of rows and the digest over them, chained to the seal before it of the same chain.
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("chain", Text, nullable=False),  # 'journal', or 'usage/<epoch>'
    Column("first_id", BigInteger, nullable=False),
    Column("last_id", BigInteger, nullable=False),
    Column("row_count", BigInteger, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Index("seal_by_chain", "chain", "last_id", unique=True),
    **_STRICT,
)
