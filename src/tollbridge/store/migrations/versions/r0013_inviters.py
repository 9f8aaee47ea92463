"""Who sent an invitation, which ends with their right to.

Revision 0013. No foreign key: the version before deletes users without knowing of this column.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("invitation", sa.Column("invited_by", sa.BigInteger().with_variant(sa.Integer(), "sqlite")))
