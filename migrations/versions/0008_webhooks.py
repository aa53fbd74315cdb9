"""Let personas speak through a webhook: a third face, and which webhook the messages of a reply belong to.

Revision: 0008, after 0007
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_FACE = (
    "TEXT DEFAULT 'off' NOT NULL CONSTRAINT ck_guild_settings_persona_face "
    "CHECK (persona_face IN ('off', 'name', 'profile', 'webhook'))"
)
_FACE_COMMENT = "How a persona is seen: not at all, by its name above replies, as my own profile, or through a webhook"
_OLD_FACE = (
    "TEXT DEFAULT 'off' NOT NULL CONSTRAINT ck_guild_settings_persona_face "
    "CHECK (persona_face IN ('off', 'name', 'profile'))"
)
_OLD_FACE_COMMENT = "How a persona is seen: not at all, by its name above replies, or as my own profile"


def upgrade() -> None:
    """No guild has chosen it yet: every message is the bot's own."""
    _replace_face(_FACE, _FACE_COMMENT)
    _add_column(
        "deliveries",
        "webhook_id",
        "BIGINT",
        "Webhook through which a persona speaks; NULL for messages of the bot itself",
    )
    _add_column("deliveries", "webhook_name", "TEXT", "Name under which it speaks there, sealed when encryption is on")


def downgrade() -> None:
    """Guilds with this face get the nearest one. Messages of webhooks stay on Discord as they are."""
    op.execute("UPDATE guild_settings SET persona_face = 'name' WHERE persona_face = 'webhook'")
    for column in ("webhook_name", "webhook_id"):
        op.execute(f"ALTER TABLE deliveries DROP COLUMN {column}")
    _replace_face(_OLD_FACE, _OLD_FACE_COMMENT)


def _replace_face(definition: str, comment: str) -> None:
    """Change the CHECK of the column. SQLite cannot do so in place: a new column takes the place of the old one."""
    if not _is_sqlite():
        check = definition.partition(" CONSTRAINT ")[2]
        op.execute("ALTER TABLE guild_settings DROP CONSTRAINT ck_guild_settings_persona_face")
        op.execute(f"ALTER TABLE guild_settings ADD CONSTRAINT {check}")
        op.execute(f"COMMENT ON COLUMN guild_settings.persona_face IS '{comment}'")
        return
    op.execute("ALTER TABLE guild_settings RENAME COLUMN persona_face TO old_persona_face")
    op.execute(f"ALTER TABLE guild_settings ADD COLUMN persona_face {definition} /* {comment} */")
    op.execute("UPDATE guild_settings SET persona_face = old_persona_face")
    op.execute("ALTER TABLE guild_settings DROP COLUMN old_persona_face")


def _is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _add_column(table: str, name: str, definition: str, comment: str) -> None:
    """Add a column with its comment. SQLite keeps the text of the column, comment included."""
    if _is_sqlite():
        op.execute(f"ALTER TABLE {table} ADD COLUMN {name} {definition} /* {comment} */")
    else:
        op.execute(f"ALTER TABLE {table} ADD COLUMN {name} {definition}")
        op.execute(f"COMMENT ON COLUMN {table}.{name} IS '{comment}'")
