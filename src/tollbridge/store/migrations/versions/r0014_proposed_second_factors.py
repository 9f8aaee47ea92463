"""The secret of a second factor that is not in use yet, beside the one that is: it can be replaced.

Revision 0014.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.add_column("user", sa.Column("totp_proposed", sa.LargeBinary))
