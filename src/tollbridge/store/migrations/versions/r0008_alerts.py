"""From how little on a customer wants to be told that little is left.

Revision 0008.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "balance_alert",
        sa.Column("account_id", Int64, sa.ForeignKey("account.id"), primary_key=True, autoincrement=False),
        sa.Column("threshold", Int64, nullable=False),
        sa.CheckConstraint("threshold >= 0", name="balance_alert_not_negative"),
        sqlite_strict=True,
    )
