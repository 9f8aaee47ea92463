"""Sums of usage by the hour and by the day; keys that manage keys.

Revision 0006.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "usage_rollup",
        sa.Column("account_id", Int64, primary_key=True, autoincrement=False),
        sa.Column("span", Int64, primary_key=True, autoincrement=False),
        sa.Column("start", Int64, primary_key=True, autoincrement=False),
        sa.Column("key_id", Int64, primary_key=True, autoincrement=False),
        sa.Column("price_version", Int64, primary_key=True, autoincrement=False),
        sa.Column("requests", Int64, nullable=False),
        sa.Column("errors", Int64, nullable=False),
        sa.Column("charge", Int64, nullable=False),
        sa.Column("cost", Int64, nullable=False),
        sa.Column("input", Int64, nullable=False),
        sa.Column("cache_read", Int64, nullable=False),
        sa.Column("cache_write", Int64, nullable=False),
        sa.Column("cache_write_1h", Int64, nullable=False),
        sa.Column("output", Int64, nullable=False),
        sa.Column("reasoning", Int64, nullable=False),
        sa.Column("duration_ms", Int64, nullable=False),
        sa.Column("first_byte_ms", Int64, nullable=False),
        sa.Column("first_bytes", Int64, nullable=False),
        sa.Column("audio_input", Int64, nullable=False),
        sa.Column("audio_output", Int64, nullable=False),
        sa.Column("image_output", Int64, nullable=False),
        sa.Column("searches", Int64, nullable=False),
        sa.Column("last_at", Int64, nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "management_key",
        sa.Column("id", Int64, primary_key=True, autoincrement=True),
        sa.Column("public_id", sa.Text, nullable=False, unique=True),
        sa.Column("account_id", Int64, sa.ForeignKey("account.id"), nullable=False, index=True),
        sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("hint", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("created_at", Int64, nullable=False),
        sa.Column("used_at", Int64),
        sa.Column("revoked_at", Int64),
        sqlite_strict=True,
    )
