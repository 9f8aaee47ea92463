"""Money in: orders, what processors say of them, what went back, invoices, vouchers, automatic top-ups.

Revision 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Flag = sa.Boolean().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    payments()
    papers()
    standing_orders()
    vouchers()


def payments() -> None:
    op.create_table(
        "payment",
        sa.Column("id", Int64, primary_key=True, autoincrement=True),
        sa.Column("public_id", sa.Text, nullable=False, unique=True),
        sa.Column("account_id", Int64, sa.ForeignKey("account.id"), nullable=False),
        sa.Column("once", sa.Text, nullable=False),
        sa.Column("method", sa.Text, nullable=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("amount", Int64, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("external_id", sa.Text, unique=True),
        sa.Column("intent", sa.Text, unique=True),
        sa.Column("url", sa.Text),
        sa.Column("save_card", Flag, nullable=False),
        sa.Column("tax", Int64, nullable=False),
        sa.Column("fee", Int64, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("created_at", Int64, nullable=False),
        sa.Column("paid_at", Int64),
        sa.Column("check_at", Int64),
        sa.CheckConstraint("amount > 0 AND tax >= 0 AND fee >= 0", name="payment_amounts"),
        sqlite_strict=True,
    )
    op.create_index("payment_by_account", "payment", ["account_id", "once"], unique=True)
    op.create_index("payment_by_check", "payment", ["check_at"])
    op.create_table(
        "payment_event",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("object_id", sa.Text, nullable=False),
        sa.Column("intent", sa.Text),
        sa.Column("received_at", Int64, nullable=False),
        sa.Column("done_at", Int64),
        sa.Column("retry_at", Int64),
        sa.Column("tries", Int64, nullable=False),
        sqlite_strict=True,
    )
    op.create_index("ix_payment_event_retry_at", "payment_event", ["retry_at"])
    op.create_table(
        "reversal",
        sa.Column("id", Int64, primary_key=True, autoincrement=True),
        sa.Column("public_id", sa.Text, nullable=False, unique=True),
        sa.Column("payment_id", Int64, sa.ForeignKey("payment.id"), nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("external_id", sa.Text, unique=True),
        sa.Column("amount", Int64, nullable=False),
        sa.Column("credit", Int64, nullable=False),
        sa.Column("fee", Int64, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("froze", Flag, nullable=False),
        sa.Column("created_at", Int64, nullable=False),
        sa.CheckConstraint("amount > 0 AND credit >= 0 AND credit <= amount AND fee >= 0", name="reversal_amounts"),
        sqlite_strict=True,
    )
    op.create_index("ix_reversal_payment_id", "reversal", ["payment_id"])


def papers() -> None:
    op.create_table(
        "invoice",
        sa.Column("number", Int64, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("payment_id", Int64, sa.ForeignKey("payment.id"), nullable=False),
        sa.Column("reversal_id", Int64, sa.ForeignKey("reversal.id")),
        sa.Column("account_id", Int64, sa.ForeignKey("account.id"), nullable=False),
        sa.Column("issued_at", Int64, nullable=False),
        sa.Column("amount", Int64, nullable=False),
        sa.Column("tax", Int64, nullable=False),
        sa.Column("currency", sa.Text, nullable=False),
        sa.Column("seller", sa.Text, nullable=False),
        sa.Column("buyer", sa.Text, nullable=False),
        sqlite_strict=True,
    )
    op.create_index("ix_invoice_account_id", "invoice", ["account_id"])
    op.create_index("invoice_by_payment", "invoice", ["payment_id", "kind"])
    op.create_index("invoice_by_reversal", "invoice", ["reversal_id", "kind"], unique=True)
    op.create_table(
        "buyer",
        sa.Column("account_id", Int64, sa.ForeignKey("account.id"), primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("tax_id", sa.Text, nullable=False),
        sa.Column("customer", sa.Text, unique=True),
        sa.Column("card", sa.Text),
        sa.Column("card_hint", sa.Text),
        sqlite_strict=True,
    )


def standing_orders() -> None:
    op.create_table(
        "auto_top_up",
        sa.Column("account_id", Int64, sa.ForeignKey("account.id"), primary_key=True, autoincrement=False),
        sa.Column("threshold", Int64, nullable=False),
        sa.Column("amount", Int64, nullable=False),
        sa.Column("daily_cap", Int64, nullable=False),
        sa.Column("payment_id", Int64, sa.ForeignKey("payment.id")),
        sa.Column("failures", Int64, nullable=False),
        sa.Column("stopped", sa.Text),
        sa.CheckConstraint("threshold >= 0 AND amount > 0 AND daily_cap >= amount", name="auto_top_up_amounts"),
        sqlite_strict=True,
    )
    op.create_table(
        "low_balance",
        sa.Column("account_id", Int64, sa.ForeignKey("account.id"), primary_key=True, autoincrement=False),
        sa.Column("threshold", Int64, nullable=False),
        sa.Column("told_at", Int64, nullable=False),
        sqlite_strict=True,
    )


def vouchers() -> None:
    op.create_table(
        "voucher",
        sa.Column("id", Int64, primary_key=True, autoincrement=True),
        sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("hint", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("amount", Int64, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("created_at", Int64, nullable=False),
        sa.Column("expires_at", Int64),
        sa.Column("withdrawn_at", Int64),
        sa.Column("redeemed_at", Int64),
        sa.Column("account_id", Int64, sa.ForeignKey("account.id")),
        sa.CheckConstraint("amount > 0", name="voucher_amount"),
        sa.CheckConstraint("(redeemed_at IS NULL) = (account_id IS NULL)", name="voucher_redeemed"),
        sqlite_strict=True,
    )
