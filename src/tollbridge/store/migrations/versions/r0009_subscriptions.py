"""Plans that are paid for by the month, and the payments that belong to them.

Revision 0009.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Flag = sa.Boolean().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "subscription",
        sa.Column("id", Int64, primary_key=True, autoincrement=True),
        sa.Column("public_id", sa.Text, nullable=False, unique=True),
        sa.Column("account_id", Int64, sa.ForeignKey("account.id"), nullable=False, index=True),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("amount", Int64, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("stage", sa.Text, nullable=False),
        sa.Column("session", sa.Text, unique=True),
        sa.Column("external_id", sa.Text, unique=True),
        sa.Column("url", sa.Text),
        sa.Column("paid_until", Int64),
        sa.Column("ending", Flag, nullable=False),
        sa.Column("created_at", Int64, nullable=False),
        sa.Column("ended_at", Int64),
        sa.Column("check_at", Int64),
        sa.CheckConstraint("amount > 0", name="subscription_amount"),
        sqlite_strict=True,
    )
    op.create_index("subscription_by_check", "subscription", ["check_at"])
    op.create_index(
        "subscription_open",
        "subscription",
        ["account_id"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.add_column("payment", sa.Column("subscription_id", Int64))
    op.create_index("payment_by_subscription", "payment", ["subscription_id"])
