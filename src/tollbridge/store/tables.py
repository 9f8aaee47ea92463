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
    Table,
    Text,
)

metadata = MetaData()

# A STRICT table of SQLite knows INTEGER (64 bits) only, and its free row id is a column so declared.
Int64 = BigInteger().with_variant(Integer(), "sqlite")
Int16 = SmallInteger().with_variant(Integer(), "sqlite")
Flag = Boolean().with_variant(Integer(), "sqlite")

meta = Table(
    "meta",
    metadata,
    # `cache_epoch`: raised by whoever changes a key, an account or a plan, polled by whoever caches them.
    Column("name", Text, primary_key=True),
    Column("value", Int64, nullable=False),
    sqlite_strict=True,
)

process = Table(
    "process",
    metadata,
    Column("epoch", Int64, primary_key=True, autoincrement=True),
    Column("host", Text, nullable=False),
    Column("pid", Int64, nullable=False),
    Column("started_at", Int64, nullable=False),
    Column("heartbeat_at", Int64, nullable=False),
    Column("stopped_at", Int64),
    # Set before its holds are swept: from then on a hold of this epoch is refused (`fenced`).
    Column("fenced_at", Int64),
    Column("swept_at", Int64),
    sqlite_strict=True,
)

account = Table(
    "account",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("email", Text, nullable=False, unique=True),
    Column("plan", Text, nullable=False),
    Column("created_at", Int64, nullable=False),
    Column("email_verified_at", Int64),
    sqlite_strict=True,
)

balance = Table(
    "balance",
    metadata,
    Column("account_id", Int64, ForeignKey("account.id"), primary_key=True, autoincrement=False),
    Column("paid", Int64, nullable=False),
    Column("promo", Int64, nullable=False),
    Column("held", Int64, nullable=False),
    Column("frozen", Flag, nullable=False),
    CheckConstraint("held >= 0", name="balance_held_not_negative"),
    CheckConstraint("promo >= 0", name="balance_promo_not_negative"),
    sqlite_strict=True,
)

api_key = Table(
    "api_key",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("account_id", Int64, ForeignKey("account.id"), nullable=False, index=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("pepper_id", Int16, nullable=False),
    # What may be shown of it later: prefix and the last four characters.
    Column("hint", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("limit_nano", Int64),
    Column("created_at", Int64, nullable=False),
    Column("expires_at", Int64),
    Column("revoked_at", Int64),
    sqlite_strict=True,
)

key_spend = Table(
    "key_spend",
    metadata,
    # Only for keys with a limit: an unlimited key costs no row.
    Column("key_id", Int64, ForeignKey("api_key.id"), primary_key=True, autoincrement=False),
    Column("spent", Int64, nullable=False),
    Column("held", Int64, nullable=False),
    CheckConstraint("held >= 0", name="key_spend_held_not_negative"),
    sqlite_strict=True,
)

price_version = Table(
    "price_version",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=True),
    # SHA-256 of `terms`: the same terms are the same version.
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    # JSON: model, provider, upstream_model, price, cost (pico-USD per token by meter), multiplier_ppm.
    Column("terms", Text, nullable=False),
    Column("created_at", Int64, nullable=False),
    sqlite_strict=True,
)

hold = Table(
    "hold",
    metadata,
    # Epoch of the process and a counter: one process's holds are one range. Ended when `usage` has a row of this id.
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("account_id", Int64, nullable=False),
    Column("key_id", Int64, nullable=False),
    Column("amount", Int64, nullable=False),
    Column("limited", Flag, nullable=False),
    Column("expires_at", Int64, nullable=False),
    CheckConstraint("amount >= 0", name="hold_amount_not_negative"),
    sqlite_strict=True,
)

hold_step = Table(
    "hold_step",
    metadata,
    Column("hold_id", Int64, primary_key=True, autoincrement=False),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("amount", Int64, nullable=False),
    CheckConstraint("amount >= 0", name="hold_step_amount_not_negative"),
    sqlite_strict=True,
)

checkpoint = Table(
    "checkpoint",
    metadata,
    # What a running stream would be charged if its process died now; gone when it ends.
    Column("hold_id", Int64, primary_key=True, autoincrement=False),
    Column("charge", Int64, nullable=False),
    Column("record", LargeBinary, nullable=False),
    sqlite_strict=True,
)

usage = Table(
    "usage",
    metadata,
    # A hold's end, its journal transaction and the usage record in one row (core.ledger.usage_entries).
    Column("hold_id", Int64, primary_key=True, autoincrement=False),
    Column("account_id", Int64, nullable=False),
    Column("key_id", Int64, nullable=False),
    Column("ended_at", Int64, nullable=False),
    Column("held", Int64, nullable=False),
    Column("charge", Int64, nullable=False),
    Column("promo", Int64, nullable=False),
    Column("loss", Int64, nullable=False),
    Column("cost", Int64, nullable=False),
    Column("price_version", Int64, nullable=False),
    Column("input", Int64, nullable=False),
    Column("cache_read", Int64, nullable=False),
    Column("cache_write", Int64, nullable=False),
    Column("cache_write_1h", Int64, nullable=False),
    Column("output", Int64, nullable=False),
    Column("reasoning", Int64, nullable=False),
    Column("started_at", Int64, nullable=False),
    Column("duration_ms", Int64, nullable=False),
    Column("first_byte_ms", Int64),
    Column("outcome", Int16, nullable=False),
    Column("status", Int16, nullable=False),
    # Bits: 1 streamed, 2 estimated, 4 suspect, 8 the key's spend carried it.
    Column("flags", Int16, nullable=False),
    Column("finish", Text),
    Column("raw", LargeBinary),
    Column("attempts", LargeBinary),
    CheckConstraint("charge >= 0 AND promo >= 0 AND loss >= 0 AND promo <= charge", name="usage_amounts"),
    Index("usage_by_account", "account_id", "ended_at"),
    sqlite_strict=True,
)

journal = Table(
    "journal",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("idempotency_key", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("account_id", Int64, nullable=False, index=True),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("created_at", Int64, nullable=False),
    sqlite_strict=True,
)

entry = Table(
    "entry",
    metadata,
    Column("journal_id", Int64, ForeignKey("journal.id"), primary_key=True, autoincrement=False),
    Column("line", Int16, primary_key=True, autoincrement=False),
    Column("book", Text, nullable=False),
    Column("amount", Int64, nullable=False),
    sqlite_strict=True,
)

seal = Table(
    "seal",
    metadata,
    # A closed range of one kind of rows and the digest over them, chained to the seal before it of the same chain.
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("chain", Text, nullable=False),  # 'journal', or 'usage/<epoch>'
    Column("first_id", Int64, nullable=False),
    Column("last_id", Int64, nullable=False),
    Column("row_count", Int64, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("created_at", Int64, nullable=False),
    # Two that seal at once begin at the same row: one of them is refused.
    Index("seal_by_chain", "chain", "first_id", unique=True),
    sqlite_strict=True,
)
