"""Let a guild decide whether files that come with messages are read.

Revision: 0011, after 0009
"""

from alembic import op

revision = "0011"
down_revision = "0009"
branch_labels = None
depends_on = None

_COMMENT = "Whether files that come with messages are read"


def upgrade() -> None:
    """They are, as before this revision."""
    if op.get_bind().dialect.name == "sqlite":  # SQLite keeps the text of the column, comment included
        op.execute(f"ALTER TABLE guild_settings ADD COLUMN files BOOLEAN DEFAULT 1 NOT NULL /* {_COMMENT} */")
    else:
        op.execute("ALTER TABLE guild_settings ADD COLUMN files BOOLEAN DEFAULT true NOT NULL")
        op.execute(f"COMMENT ON COLUMN guild_settings.files IS '{_COMMENT}'")


def downgrade() -> None:
    """Files are read in every guild again."""
    op.execute("ALTER TABLE guild_settings DROP COLUMN files")
