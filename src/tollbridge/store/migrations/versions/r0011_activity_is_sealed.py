"""What was done is sealed as the books are: a proof of who, what and from where that outlives forgetting them.

Revision 0011.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("activity", sa.Column("proof", sa.LargeBinary(32)))
    op.add_column("activity", sa.Column("salt", sa.LargeBinary(16)))
