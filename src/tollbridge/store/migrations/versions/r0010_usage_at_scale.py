"""Sums of all usage by the day, what stays of usage that was dropped, and an index of usage by time.

Revision 0010.
"""

import sqlalchemy as sa
from alembic import context, op

revision = "0010"
down_revision = "0009"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Int16 = sa.SmallInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    if context.get_context().dialect.name == "postgresql":
        # Where there is usage already, it was made before, beside the running gateway (`store.migrations`).
        op.create_index(
            "usage_by_time",
            "usage",
            ["ended_at"],
            if_not_exists=True,
            postgresql_using="brin",
            postgresql_with={"autosummarize": "on"},
        )
    op.create_index(
        "journal_late",
        "journal",
        ["created_at"],
        sqlite_where=sa.text("kind = 'late'"),
        postgresql_where=sa.text("kind = 'late'"),
    )
    op.create_table(
        "usage_day",
        sa.Column("grouped", Int16, primary_key=True, autoincrement=False),
        sa.Column("id", Int64, primary_key=True, autoincrement=False),
        sa.Column("start", Int64, primary_key=True, autoincrement=False),
        *(
            sa.Column(name, Int64, nullable=False)
            for name in ("requests", "prompt", "output", "charge", "promo", "loss", "cost")
        ),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index("usage_day_by_start", "usage_day", ["grouped", "start"])
    op.create_table(
        "carried",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("id", Int64, primary_key=True, autoincrement=False),
        sa.Column("part", Int64, primary_key=True, autoincrement=False),
        sa.Column("amount", Int64, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "closing",
        sa.Column("id", Int64, primary_key=True, autoincrement=True),
        sa.Column("chain", sa.Text, nullable=False),
        sa.Column("first_id", Int64, nullable=False),
        sa.Column("last_id", Int64, nullable=False),
        sa.Column("row_count", Int64, nullable=False),
        sa.Column("until", Int64, nullable=False),
        sa.Column("sum", sa.LargeBinary(32), nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("created_at", Int64, nullable=False),
        sqlite_strict=True,
    )
    op.create_index("closing_by_chain", "closing", ["chain", "first_id"], unique=True)
