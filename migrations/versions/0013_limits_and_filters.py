"""Limit messages a minute and replies at once, and a guild's day as a whole; restrict personas by age; filter texts.

Revision: 0013, after 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_NUMBERS = {
    "guild_settings": {
        "minute_messages": ("> 0", "Messages that a member may send in a minute"),
        "running_replies": ("> 0", "Replies to a member that are written at once"),
        "guild_minute_messages": ("> 0", "Messages that all members together may send in a minute"),
        "guild_running_replies": ("> 0", "Replies to all members that are written at once"),
        "guild_daily_turns": (">= 0", "Turns that all members together may have in one UTC day"),
        "guild_daily_tokens": (">= 0", "Tokens that all members together may use in one UTC day"),
    },
    "guild_roles": {
        "minute_messages": ("> 0", "Messages a minute instead of the usual number"),
        "running_replies": ("> 0", "Replies at once instead of the usual number"),
        "daily_tokens": (">= 0", "Tokens a day instead of the usual number"),
    },
}


def upgrade() -> None:
    """No guild has chosen a number yet: the operator's apply."""
    for table, columns in _NUMBERS.items():
        for name, (allowed, comment) in columns.items():
            _add_column(table, name, f"INTEGER CONSTRAINT ck_{table}_{name} CHECK ({name} {allowed})", comment)
    _add_column(
        "daily_usage",
        "more_replies",
        "INTEGER DEFAULT 0 NOT NULL CONSTRAINT ck_daily_usage_more_replies CHECK (more_replies >= 0)",
        "Further replies to earlier turns; a daily number of messages counts them too",
    )
    _add_column(
        "personas",
        "age_restricted",
        f"BOOLEAN DEFAULT {'0' if _is_sqlite() else 'false'} NOT NULL",
        "Whether it answers only in channels that Discord restricts by age",
    )
    _add_column(
        "guild_settings",
        "moderation",
        f"BOOLEAN DEFAULT {'0' if _is_sqlite() else 'false'} NOT NULL",
        "Whether the moderation endpoint judges messages and replies",
    )
    _add_column(
        "guild_settings",
        "moderation_thresholds",
        "TEXT DEFAULT '{}' NOT NULL",
        "JSON: scores by category from which a text is kept out",
    )
    op.create_table(
        "guild_filter_words",
        sa.Column("guild_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Guild"),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False, comment="0, 1, 2, ... in the guild"),
        sa.Column(
            "word",
            sa.Text(),
            nullable=False,
            comment="One word or several, * for any letters; sealed when encryption is on",
        ),
        sa.ForeignKeyConstraint(
            ["guild_id"], ["guilds.id"], name="fk_guild_filter_words_guild_id_guilds", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("guild_id", "position", name="pk_guild_filter_words"),
        comment="Words that a guild keeps out of conversations",
    )


def downgrade() -> None:
    """Drop the numbers: only the daily ones of a member apply, as before this revision."""
    op.drop_table("guild_filter_words")
    op.execute("ALTER TABLE guild_settings DROP COLUMN moderation_thresholds")
    op.execute("ALTER TABLE guild_settings DROP COLUMN moderation")
    op.execute("ALTER TABLE personas DROP COLUMN age_restricted")
    op.execute("ALTER TABLE daily_usage DROP COLUMN more_replies")
    for table, columns in _NUMBERS.items():
        for name in reversed(columns):
            op.execute(f"ALTER TABLE {table} DROP COLUMN {name}")


def _is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _add_column(table: str, name: str, definition: str, comment: str) -> None:
    """Add a column with its comment. SQLite keeps the text of the column, comment included."""
    if _is_sqlite():
        op.execute(f"ALTER TABLE {table} ADD COLUMN {name} {definition} /* {comment} */")
    else:
        op.execute(f"ALTER TABLE {table} ADD COLUMN {name} {definition}")
        op.execute(f"COMMENT ON COLUMN {table}.{name} IS '{comment}'")
