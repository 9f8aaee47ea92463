"""By which master secret a management key's digest was made, as `api_key.pepper_id` says of an API key's.

Revision 0012.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("management_key", sa.Column("pepper_id", sa.SmallInteger().with_variant(sa.Integer(), "sqlite")))
