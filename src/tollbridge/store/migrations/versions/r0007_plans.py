"""What was agreed with one account beside its plan, tokens that a plan includes, more settings of keys, and answers
that are kept for whoever asks again.

Revision 0007.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "account_plan",
        sa.Column("account_id", Int64, sa.ForeignKey("account.id"), primary_key=True, autoincrement=False),
        sa.Column("rpm", Int64),
        sa.Column("tpm", Int64),
        sa.Column("concurrency", Int64),
        sa.Column("included_tokens", Int64),
        sa.Column("cost_cap", Int64),
        sa.Column("since", Int64, nullable=False),
        sa.Column("until", Int64, nullable=False),
        sqlite_strict=True,
    )
    op.add_column("api_key", sa.Column("models", sa.Text))
    op.add_column("api_key", sa.Column("addresses", sa.Text))
    op.add_column("api_key", sa.Column("rpm", Int64))
    op.add_column("api_key", sa.Column("tpm", Int64))
    op.add_column("api_key", sa.Column("concurrency", Int64))
    op.add_column("api_key", sa.Column("cost_cap", Int64))
    op.add_column("api_key", sa.Column("limit_reset", sa.Text))
    op.add_column("api_key", sa.Column("disabled_at", Int64))
    op.add_column("key_spend", sa.Column("since", Int64))
    op.create_table(
        "allowance",
        sa.Column("account_id", Int64, sa.ForeignKey("account.id"), primary_key=True, autoincrement=False),
        sa.Column("period", Int64, primary_key=True, autoincrement=False),
        sa.Column("included", Int64, nullable=False),
        sa.Column("used", Int64, nullable=False),
        sa.Column("held", Int64, nullable=False),
        sa.CheckConstraint("used >= 0 AND held >= 0", name="allowance_not_negative"),
        sqlite_strict=True,
    )
    op.add_column("hold", sa.Column("tokens", Int64))
    op.add_column("hold", sa.Column("period", Int64))
    op.add_column("usage", sa.Column("allowance", Int64))
    op.create_table(
        "claim",
        sa.Column("account_id", Int64, primary_key=True, autoincrement=False),
        sa.Column("name", sa.LargeBinary(32), primary_key=True),
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("hold_id", Int64, nullable=False),
        sa.Column("created_at", Int64, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "kept_answer",
        sa.Column("hold_id", Int64, primary_key=True, autoincrement=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.Column("created_at", Int64, nullable=False),
        sqlite_strict=True,
    )
