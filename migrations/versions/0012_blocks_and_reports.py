"""Let admins block members with a reason and an end, take back what they deleted, and read what members report.

Revision: 0012, after 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
SNOWFLAKE = sa.BigInteger()
PURGED = sa.text("purge_id IS NOT NULL")
_PURGE_COMMENT = "Deletion by an admin that can still be taken back: nobody finds the dialog; see purges"
_BLOCKED_COMMENT = "When an admin blocked the member"


def upgrade() -> None:
    """Members who are blocked stay so, for good and without a reason, as before."""
    _create_blocks()
    op.execute(
        "INSERT INTO member_blocks (guild_id, user_id, blocked_at, application_id) "
        "SELECT guild_id, user_id, blocked_at, application_id FROM member_settings WHERE blocked_at IS NOT NULL"
    )
    op.execute("ALTER TABLE member_settings DROP COLUMN blocked_at")
    _create_purges()
    _create_reports()
    op.create_index("ix_daily_usage_guild_day", "daily_usage", ["guild_id", "day", "application_id"])
    op.create_index("ix_dialogs_guild_active", "dialogs", ["guild_id", "application_id", "last_active_at"])


def downgrade() -> None:
    """A block that holds has neither end nor reason again. Reports are lost; what is hidden is deleted now."""
    op.drop_index("ix_dialogs_guild_active", table_name="dialogs")
    op.drop_index("ix_daily_usage_guild_day", table_name="daily_usage")
    for table in ("report_channels", "report_speakers", "reports"):
        op.drop_table(table)
    _delete_hidden()
    op.drop_index("ix_dialogs_purge_id", table_name="dialogs")
    op.execute("ALTER TABLE dialogs DROP COLUMN purge_id")
    op.drop_table("purges")
    _add_column("member_settings", "blocked_at", "DATETIME", "TIMESTAMP WITH TIME ZONE", _BLOCKED_COMMENT)
    op.execute(
        "INSERT INTO member_settings (guild_id, user_id, updated_at, blocked_at, application_id) "
        "SELECT guild_id, user_id, blocked_at, blocked_at, application_id FROM member_blocks "
        "WHERE (user_id, application_id) IN (SELECT id, application_id FROM users) "
        "AND (until IS NULL OR until > CURRENT_TIMESTAMP) "
        "ON CONFLICT (guild_id, user_id, application_id) DO UPDATE SET blocked_at = excluded.blocked_at"
    )
    op.drop_table("member_blocks")


def _delete_hidden() -> None:
    """Delete hidden conversations, children first: SQLite deletes no children by itself here."""
    dialogs = _ids("dialogs", sa.column("purge_id").is_not(None))
    turns = _ids("turns", sa.column("dialog_id").in_(dialogs))
    deliveries = _ids("deliveries", sa.column("turn_id").in_(turns))
    for table, column, rows in (
        ("delivery_messages", "delivery_id", deliveries),
        ("deliveries", "turn_id", turns),
        ("turn_files", "turn_id", turns),
        ("turn_prompts", "turn_id", turns),
        ("reply_variants", "turn_id", turns),
        ("turns", "dialog_id", dialogs),
        ("dialog_summaries", "dialog_id", dialogs),
        ("memory_work", "dialog_id", dialogs),
        ("dialogs", "id", dialogs),
    ):
        op.execute(sa.delete(sa.table(table)).where(sa.column(column).in_(rows)))


def _ids(table: str, condition: sa.ColumnElement[bool]) -> sa.Select[int]:
    return sa.select(sa.column("id", ROW_ID)).select_from(sa.table(table)).where(condition)


def _create_blocks() -> None:
    op.create_table(
        "member_blocks",
        sa.Column("guild_id", SNOWFLAKE, autoincrement=False, nullable=False, comment="Guild"),
        sa.Column("user_id", SNOWFLAKE, autoincrement=False, nullable=False, comment="Member"),
        sa.Column("blocked_at", TIME, nullable=False, comment="Since when"),
        sa.Column("until", TIME, nullable=True, comment="When it ends by itself; NULL: for good"),
        sa.Column(
            "blocked_by", SNOWFLAKE, nullable=True, comment="Admin who did it; NULL once that person was deleted"
        ),
        sa.Column(
            "reason",
            sa.Text(),
            nullable=True,
            comment="What the admin wrote, which the member reads; sealed when encryption is on",
        ),
        _application(),
        _belongs_to("member_blocks", "guild_id", "guilds"),
        sa.PrimaryKeyConstraint("guild_id", "user_id", "application_id", name="pk_member_blocks"),
        comment="Members who may not talk with me in a guild; outlives the deletion of their data",
    )
    _index("member_blocks", "user_id", "until", "blocked_by")


def _create_purges() -> None:
    op.create_table(
        "purges",
        sa.Column("id", ROW_ID, nullable=False, comment="Row id, never used again"),
        sa.Column("guild_id", SNOWFLAKE, nullable=False, comment="Guild"),
        sa.Column("requested_at", TIME, nullable=False, comment="When an admin asked for it"),
        sa.Column("due_at", TIME, nullable=False, comment="When the conversations are deleted"),
        _application(),
        _belongs_to("purges", "guild_id", "guilds"),
        sa.PrimaryKeyConstraint("id", name="pk_purges"),
        comment="Deletions of conversations that can still be taken back",
        sqlite_autoincrement=True,
    )
    _index("purges", "guild_id", "due_at")
    _add_column("dialogs", "purge_id", "INTEGER", "BIGINT", _PURGE_COMMENT)
    op.create_index("ix_dialogs_purge_id", "dialogs", ["purge_id"], sqlite_where=PURGED, postgresql_where=PURGED)


def _create_reports() -> None:
    op.create_table(
        "reports",
        sa.Column("id", ROW_ID, nullable=False, comment="Row id, never used again"),
        sa.Column("guild_id", SNOWFLAKE, nullable=False, comment="Guild"),
        sa.Column("channel_id", SNOWFLAKE, nullable=False, comment="Where it was reported"),
        sa.Column("source_turn_id", ROW_ID, nullable=False, comment="Turn of the answer, which may be gone since"),
        sa.Column("author_id", SNOWFLAKE, nullable=False, comment="Whose message was answered; it goes with them"),
        sa.Column(
            "reporter_id", SNOWFLAKE, nullable=True, comment="Who reported it; NULL once that person was deleted"
        ),
        sa.Column(
            "reason",
            sa.Text(),
            nullable=True,
            comment="What the reporter wrote, sealed when encryption is on; NULL once their data was deleted",
        ),
        sa.Column("pair", sa.Text(), nullable=False, comment="JSON: message and answer, sealed when encryption is on"),
        sa.Column(
            "prompt",
            sa.Text(),
            nullable=True,
            comment="JSON: the prompt as it could be built again, sealed when encryption is on; NULL if there is none, "
            "or if somebody whose words were in it had their data deleted",
        ),
        sa.Column("created_at", TIME, nullable=False, comment="When it was reported; it is kept for some days"),
        sa.Column("closed_at", TIME, nullable=True, comment="When an admin closed it; NULL while open"),
        sa.Column("closed_by", SNOWFLAKE, nullable=True, comment="Who closed it; NULL once that person was deleted"),
        _application(),
        _belongs_to("reports", "guild_id", "guilds"),
        _belongs_to("reports", "author_id", "users"),
        sa.PrimaryKeyConstraint("id", name="pk_reports"),
        comment="Answers of mine that members reported, kept for the admins",
        sqlite_autoincrement=True,
    )
    op.create_index("ix_reports_guild_id", "reports", ["guild_id", "application_id", "id"])
    _index("reports", "author_id", "reporter_id", "closed_by", "created_at")
    op.create_table(
        "report_speakers",
        sa.Column("report_id", ROW_ID, autoincrement=False, nullable=False, comment="Report"),
        sa.Column(
            "user_id",
            SNOWFLAKE,
            autoincrement=False,
            nullable=False,
            comment="Who; they may never have talked with the bot",
        ),
        sa.ForeignKeyConstraint(
            ["report_id"], ["reports.id"], name="fk_report_speakers_report_id_reports", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("report_id", "user_id", name="pk_report_speakers"),
        comment="Others than the asker whose words are in the prompt of a report",
    )
    op.create_index("ix_report_speakers_user_id", "report_speakers", ["user_id"])
    op.create_table(
        "report_channels",
        sa.Column("guild_id", SNOWFLAKE, autoincrement=False, nullable=False, comment="Guild"),
        sa.Column("channel_id", SNOWFLAKE, nullable=False, comment="Channel or thread"),
        _application(),
        _belongs_to("report_channels", "guild_id", "guilds"),
        sa.PrimaryKeyConstraint("guild_id", "application_id", name="pk_report_channels"),
        comment="Where admins read that an answer was reported; never what it says",
    )


def _index(table: str, *columns: str) -> None:
    for column in columns:
        op.create_index(f"ix_{table}_{column}", table, [column, "application_id"])


def _application() -> sa.Column[int]:
    comment = "Application whose bot it belongs to; 0 is the terminal"
    return sa.Column(
        "application_id", SNOWFLAKE, server_default="0", autoincrement=False, nullable=False, comment=comment
    )


def _belongs_to(table: str, column: str, parent: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [column, "application_id"],
        [f"{parent}.id", f"{parent}.application_id"],
        name=f"fk_{table}_{column}_application_id_{parent}",
        ondelete="CASCADE",
    )


def _add_column(table: str, name: str, on_sqlite: str, on_postgres: str, comment: str) -> None:
    """Add a column with its comment. SQLite keeps the text of the column, comment included."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"ALTER TABLE {table} ADD COLUMN {name} {on_sqlite} /* {comment} */")
    else:
        op.execute(f"ALTER TABLE {table} ADD COLUMN {name} {on_postgres}")
        op.execute(f"COMMENT ON COLUMN {table}.{name} IS '{comment}'")
