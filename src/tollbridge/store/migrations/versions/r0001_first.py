"""Accounts, keys, prices and the books.

Revision 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Int16 = sa.SmallInteger().with_variant(sa.Integer(), "sqlite")
Flag = sa.Boolean().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    accounts()
    books()


def accounts() -> None:
    op.create_table(
        "meta",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", Int64, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "process",
        sa.Column("epoch", Int64, primary_key=True, autoincrement=True),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", Int64, nullable=False),
        sa.Column("started_at", Int64, nullable=False),
        sa.Column("heartbeat_at", Int64, nullable=False),
        sa.Column("stopped_at", Int64),
        sa.Column("fenced_at", Int64),
        sa.Column("swept_at", Int64),
        sqlite_strict=True,
    )
    op.create_table(
        "account",
        sa.Column("id", Int64, primary_key=True, autoincrement=True),
        sa.Column("public_id", sa.Text, nullable=False, unique=True),
        sa.Column("email", sa.Text, nullable=False, unique=True),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("created_at", Int64, nullable=False),
        sa.Column("email_verified_at", Int64),
        sqlite_strict=True,
    )
    op.create_table(
        "balance",
        sa.Column("account_id", Int64, sa.ForeignKey("account.id"), primary_key=True, autoincrement=False),
        sa.Column("paid", Int64, nullable=False),
        sa.Column("promo", Int64, nullable=False),
        sa.Column("held", Int64, nullable=False),
        sa.Column("frozen", Flag, nullable=False),
        sa.CheckConstraint("held >= 0", name="balance_held_not_negative"),
        sa.CheckConstraint("promo >= 0", name="balance_promo_not_negative"),
        sqlite_strict=True,
    )
    op.create_table(
        "api_key",
        sa.Column("id", Int64, primary_key=True, autoincrement=True),
        sa.Column("public_id", sa.Text, nullable=False, unique=True),
        sa.Column("account_id", Int64, sa.ForeignKey("account.id"), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("pepper_id", Int16, nullable=False),
        sa.Column("hint", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("limit_nano", Int64),
        sa.Column("created_at", Int64, nullable=False),
        sa.Column("expires_at", Int64),
        sa.Column("revoked_at", Int64),
        sqlite_strict=True,
    )
    op.create_table(
        "key_spend",
        sa.Column("key_id", Int64, sa.ForeignKey("api_key.id"), primary_key=True, autoincrement=False),
        sa.Column("spent", Int64, nullable=False),
        sa.Column("held", Int64, nullable=False),
        sa.CheckConstraint("held >= 0", name="key_spend_held_not_negative"),
        sqlite_strict=True,
    )
    op.create_index("ix_api_key_account_id", "api_key", ["account_id"])
    op.execute("INSERT INTO meta (name, value) VALUES ('cache_epoch', 0)")


def books() -> None:
    op.create_table(
        "price_version",
        sa.Column("id", Int64, primary_key=True, autoincrement=True),
        sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("terms", sa.Text, nullable=False),
        sa.Column("created_at", Int64, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "hold",
        sa.Column("id", Int64, primary_key=True, autoincrement=False),
        sa.Column("account_id", Int64, nullable=False),
        sa.Column("key_id", Int64, nullable=False),
        sa.Column("amount", Int64, nullable=False),
        sa.Column("limited", Flag, nullable=False),
        sa.Column("expires_at", Int64, nullable=False),
        sa.CheckConstraint("amount >= 0", name="hold_amount_not_negative"),
        sqlite_strict=True,
    )
    op.create_table(
        "hold_step",
        sa.Column("hold_id", Int64, primary_key=True, autoincrement=False),
        sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("amount", Int64, nullable=False),
        sa.CheckConstraint("amount >= 0", name="hold_step_amount_not_negative"),
        sqlite_strict=True,
    )
    op.create_table(
        "checkpoint",
        sa.Column("hold_id", Int64, primary_key=True, autoincrement=False),
        sa.Column("charge", Int64, nullable=False),
        sa.Column("record", sa.LargeBinary, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "usage",
        sa.Column("hold_id", Int64, primary_key=True, autoincrement=False),
        sa.Column("account_id", Int64, nullable=False),
        sa.Column("key_id", Int64, nullable=False),
        sa.Column("ended_at", Int64, nullable=False),
        sa.Column("held", Int64, nullable=False),
        sa.Column("charge", Int64, nullable=False),
        sa.Column("promo", Int64, nullable=False),
        sa.Column("loss", Int64, nullable=False),
        sa.Column("cost", Int64, nullable=False),
        sa.Column("price_version", Int64, nullable=False),
        sa.Column("input", Int64, nullable=False),
        sa.Column("cache_read", Int64, nullable=False),
        sa.Column("cache_write", Int64, nullable=False),
        sa.Column("cache_write_1h", Int64, nullable=False),
        sa.Column("output", Int64, nullable=False),
        sa.Column("reasoning", Int64, nullable=False),
        sa.Column("started_at", Int64, nullable=False),
        sa.Column("duration_ms", Int64, nullable=False),
        sa.Column("first_byte_ms", Int64),
        sa.Column("outcome", Int16, nullable=False),
        sa.Column("status", Int16, nullable=False),
        sa.Column("flags", Int16, nullable=False),
        sa.Column("finish", sa.Text),
        sa.Column("raw", sa.LargeBinary),
        sa.Column("attempts", sa.LargeBinary),
        sa.CheckConstraint("charge >= 0 AND promo >= 0 AND loss >= 0 AND promo <= charge", name="usage_amounts"),
        sqlite_strict=True,
    )
    op.create_table(
        "journal",
        sa.Column("id", Int64, primary_key=True, autoincrement=True),
        sa.Column("idempotency_key", sa.Text, nullable=False, unique=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("account_id", Int64, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("created_at", Int64, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "entry",
        sa.Column("journal_id", Int64, sa.ForeignKey("journal.id"), primary_key=True, autoincrement=False),
        sa.Column("line", Int16, primary_key=True, autoincrement=False),
        sa.Column("book", sa.Text, nullable=False),
        sa.Column("amount", Int64, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "seal",
        sa.Column("id", Int64, primary_key=True, autoincrement=True),
        sa.Column("chain", sa.Text, nullable=False),
        sa.Column("first_id", Int64, nullable=False),
        sa.Column("last_id", Int64, nullable=False),
        sa.Column("row_count", Int64, nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("created_at", Int64, nullable=False),
        sqlite_strict=True,
    )
    op.create_index("usage_by_account", "usage", ["account_id", "ended_at"])
    op.create_index("ix_journal_account_id", "journal", ["account_id"])
    op.create_index("seal_by_chain", "seal", ["chain", "first_id"], unique=True)
