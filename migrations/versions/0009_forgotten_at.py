"""Remember since when a member wants nothing remembered of what was said before.

Revision: 0009, after 0008
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_COMMENT = "When the member had all notes forgotten: nothing that was said before is remembered any more"


def upgrade() -> None:
    """Nobody's notes were forgotten in this way yet."""
    if op.get_bind().dialect.name == "sqlite":  # SQLite keeps the text of the column, comment included
        op.execute(f"ALTER TABLE member_settings ADD COLUMN forgotten_at DATETIME /* {_COMMENT} */")
    else:
        op.execute("ALTER TABLE member_settings ADD COLUMN forgotten_at TIMESTAMP WITH TIME ZONE")
        op.execute(f"COMMENT ON COLUMN member_settings.forgotten_at IS '{_COMMENT}'")


def downgrade() -> None:
    """What was said before may be remembered again, as before this revision."""
    op.execute("ALTER TABLE member_settings DROP COLUMN forgotten_at")
