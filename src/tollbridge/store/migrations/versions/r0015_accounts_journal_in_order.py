"""An index of each account's journal in the order in which its statement shows it.

Revision 0015.
"""

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_index("journal_by_account", "journal", ["account_id", "created_at", "id"])
