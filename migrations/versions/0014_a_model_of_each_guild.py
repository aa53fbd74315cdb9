"""Each guild may choose a model, and each reply says which model wrote it.

Revision: 0014, after 0013
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_WROTE = "Model that wrote the reply, as its server calls it"
_COLUMNS = {
    "guild_settings": "Name of the model that answers; NULL: the default one",
    "turns": _WROTE,
    "reply_variants": _WROTE,
}


def upgrade() -> None:
    """No guild has chosen yet, and who wrote the earlier replies is not known."""
    for table, comment in _COLUMNS.items():
        if op.get_bind().dialect.name == "sqlite":  # it keeps the text of the column, comment included
            op.execute(f"ALTER TABLE {table} ADD COLUMN model TEXT /* {comment} */")
        else:
            op.execute(f"ALTER TABLE {table} ADD COLUMN model TEXT")
            op.execute(f"COMMENT ON COLUMN {table}.model IS '{comment}'")


def downgrade() -> None:
    """The default model answers everywhere again, as before this revision."""
    for table in reversed(_COLUMNS):
        op.execute(f"ALTER TABLE {table} DROP COLUMN model")
