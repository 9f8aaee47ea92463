"""People: users and what they log in with, members of accounts, sessions, mail, and what was done.

Revision 0003.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

Int64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
Flag = sa.Boolean().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    users()
    credentials()
    members()
    mail()


def users() -> None:
    op.create_table(
        "user",
        sa.Column("id", Int64, primary_key=True, autoincrement=True),
        sa.Column("public_id", sa.Text, nullable=False, unique=True),
        sa.Column("email", sa.Text, nullable=False, unique=True),
        sa.Column("password", sa.Text),
        sa.Column("operator", Flag, nullable=False),
        sa.Column("created_at", Int64, nullable=False),
        sa.Column("verified_at", Int64),
        sa.Column("consented_at", Int64),
        sa.Column("totp_secret", sa.LargeBinary),
        sa.Column("totp_since", Int64),
        sa.Column("totp_step", Int64, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "session",
        sa.Column("id", Int64, primary_key=True, autoincrement=True),
        sa.Column("public_id", sa.Text, nullable=False, unique=True),
        sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("user_id", Int64, sa.ForeignKey("user.id"), nullable=False, index=True),
        sa.Column("account_id", Int64, sa.ForeignKey("account.id")),
        sa.Column("created_at", Int64, nullable=False),
        sa.Column("seen_at", Int64, nullable=False),
        sa.Column("proved_at", Int64, nullable=False),
        sa.Column("factors", sa.Integer, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "throttle",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("count", Int64, nullable=False),
        sa.Column("since", Int64, nullable=False),
        sa.Column("last", Int64, nullable=False, index=True),
        sqlite_strict=True,
    )


def credentials() -> None:
    op.create_table(
        "recovery_code",
        sa.Column("digest", sa.LargeBinary(32), primary_key=True),
        sa.Column("user_id", Int64, sa.ForeignKey("user.id"), nullable=False, index=True),
        sqlite_strict=True,
    )
    op.create_table(
        "passkey",
        sa.Column("id", Int64, primary_key=True, autoincrement=True),
        sa.Column("user_id", Int64, sa.ForeignKey("user.id"), nullable=False, index=True),
        sa.Column("credential", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("public_key", sa.LargeBinary, nullable=False),
        sa.Column("counter", Int64, nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("created_at", Int64, nullable=False),
        sa.Column("used_at", Int64),
        sqlite_strict=True,
    )
    op.create_table(
        "identity",
        sa.Column("issuer", sa.Text, primary_key=True),
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("user_id", Int64, sa.ForeignKey("user.id"), nullable=False, index=True),
        sa.Column("created_at", Int64, nullable=False),
        sqlite_strict=True,
    )


def members() -> None:
    op.create_table(
        "membership",
        sa.Column("account_id", Int64, sa.ForeignKey("account.id"), primary_key=True, autoincrement=False),
        sa.Column("user_id", Int64, sa.ForeignKey("user.id"), primary_key=True, autoincrement=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("created_at", Int64, nullable=False),
        sa.Index("membership_by_user", "user_id"),
        sqlite_strict=True,
    )
    op.create_table(
        "invitation",
        sa.Column("id", Int64, primary_key=True, autoincrement=True),
        sa.Column("public_id", sa.Text, nullable=False, unique=True),
        sa.Column("account_id", Int64, sa.ForeignKey("account.id"), nullable=False, index=True),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("digest", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("created_at", Int64, nullable=False),
        sa.Column("expires_at", Int64, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "key_copy",
        sa.Column("key_id", Int64, sa.ForeignKey("api_key.id"), primary_key=True, autoincrement=False),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "activity",
        sa.Column("id", Int64, primary_key=True, autoincrement=True),
        sa.Column("account_id", Int64, nullable=False),
        sa.Column("at", Int64, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("address", sa.Text, nullable=False),
        sa.Index("activity_by_account", "account_id", "id"),
        sqlite_strict=True,
    )


def mail() -> None:
    op.create_table(
        "mail_token",
        sa.Column("digest", sa.LargeBinary(32), primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("user_id", Int64, sa.ForeignKey("user.id"), nullable=False, index=True),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("expires_at", Int64, nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "outbox",
        sa.Column("id", Int64, primary_key=True, autoincrement=True),
        sa.Column("recipient", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("sealed", sa.LargeBinary),
        sa.Column("created_at", Int64, nullable=False),
        sa.Column("next_at", Int64, nullable=False),
        sa.Column("sent_at", Int64),
        sa.Column("tries", Int64, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sqlite_strict=True,
    )
