"""Add shared and named dialogs, authors of turns, files, deliveries, bound threads and scopes of channels.

Revision: 0004, after 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
SCOPES = "'member', 'channel', 'thread', 'member-channel', 'member-thread'"
OLD_SCOPES = "'user', 'channel', 'thread'"
NAMES = {"user": "member", "channel": "member-channel", "thread": "member-thread"}
OPEN = "ended_at IS NULL AND parked_at IS NULL"
UNFINISHED = "state <> 'done'"
SCOPE_COMMENT = "Dialogs of a member: in the guild, by channel or by thread; or of a channel or thread, shared by all"
OLD_SCOPE_COMMENT = "One dialog a member in the whole guild, in each channel or in each thread"


def upgrade() -> None:
    """Create the tables and columns. What a guild chose stays what it was: no dialog becomes a shared one."""
    _add_column("dialogs", "parked_at", "TIMESTAMP WITH TIME ZONE", "DATETIME",
                "When another conversation of this key took its place; NULL while it is the one in use")  # fmt: skip
    _add_column("dialogs", "name", "TEXT", "TEXT", "Name that its owner gave it, sealed when encryption is on")
    _add_column("turns", "author_id", "BIGINT", "BIGINT", "Who wrote it")
    _add_column("turns", "author_name", "TEXT", "TEXT",
                "Name that the model read, in a shared dialog only; sealed when encryption is on")  # fmt: skip
    _add_column("turns", "replaces_id", "BIGINT", "INTEGER",
                "Turn that it replaced, with all later ones: the member had edited what they said")  # fmt: skip
    _add_column("turns", "files_note", "TEXT", "TEXT",
                "What the member is told of the files, above the reply; sealed when encryption is on")  # fmt: skip
    op.execute("UPDATE turns SET author_id = (SELECT user_id FROM dialogs WHERE dialogs.id = turns.dialog_id)")
    op.drop_index("ix_turns_reply_token", "turns")
    for column in ("reply_token", "application_id"):  # deliveries have them now
        op.execute(f"ALTER TABLE turns DROP COLUMN {column}")
    _add_author_key()
    op.create_index("ix_turns_author_id", "turns", ["author_id"])
    _replace_open_index(OPEN)
    _replace_scopes(SCOPES, "member", SCOPE_COMMENT, NAMES)
    op.create_table(
        "channel_scopes",
        sa.Column("guild_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Guild"),
        sa.Column("channel_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Channel"),
        sa.Column("dialog_scope", sa.Text(), nullable=False, comment="As in guild_settings"),
        sa.CheckConstraint(f"dialog_scope IN ({SCOPES})", name="ck_channel_scopes_dialog_scope"),
        sa.ForeignKeyConstraint(
            ["guild_id"], ["guilds.id"], name="fk_channel_scopes_guild_id_guilds", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("guild_id", "channel_id", name="pk_channel_scopes"),
        comment="Channels with a dialog scope of their own",
    )
    op.create_table(
        "bound_threads",
        sa.Column("thread_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Thread"),
        sa.Column("guild_id", sa.BigInteger(), nullable=False, comment="Guild"),
        sa.Column("parent_id", sa.BigInteger(), nullable=False, comment="Channel of the thread"),
        sa.Column("creator_id", sa.BigInteger(), nullable=True, comment="Who asked for it"),
        sa.Column("created_at", TIME, nullable=False, comment="When it was started"),
        sa.Column("last_used_at", TIME, nullable=False, comment="When members last talked in it, recorded once a day"),
        sa.ForeignKeyConstraint(
            ["guild_id"], ["guilds.id"], name="fk_bound_threads_guild_id_guilds", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["creator_id"], ["users.id"], name="fk_bound_threads_creator_id_users", ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("thread_id", name="pk_bound_threads"),
        comment="Threads in which the bot answers without being mentioned",
    )
    op.create_index("ix_bound_threads_guild_id", "bound_threads", ["guild_id"])
    op.create_index("ix_bound_threads_creator_id", "bound_threads", ["creator_id"])
    op.create_table(
        "turn_files",
        sa.Column("turn_id", ROW_ID, autoincrement=False, nullable=False, comment="Turn"),
        sa.Column(
            "position", sa.Integer(), autoincrement=False, nullable=False, comment="0, 1, 2, ... within the turn"
        ),
        sa.Column(
            "name",
            sa.Text(),
            nullable=False,
            comment="Name of the file or of the quoted author, sealed when encryption is on",
        ),
        sa.Column(
            "content",
            sa.Text(),
            nullable=False,
            comment="Its text, sealed when encryption is on; empty for a picture, and for what could not be read",
        ),
        sa.Column(
            "note",
            sa.Text(),
            nullable=True,
            comment="What the model is told beside the name: its pages, where it was cut, that it is a picture",
        ),
        sa.Column(
            "kind",
            sa.Text(),
            server_default="file",
            nullable=False,
            comment="file of the member, quote of a message, or file of the quoted message",
        ),
        sa.Column(
            "author_id",
            sa.BigInteger(),
            nullable=True,
            comment="Who wrote the quoted message; they may never have talked with the bot",
        ),
        sa.CheckConstraint("kind IN ('file', 'quote', 'quoted file')", name="ck_turn_files_kind"),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name="fk_turn_files_turn_id_turns", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("turn_id", "position", name="pk_turn_files"),
        comment="What came with a message: files as the text that the model read, messages that it quotes",
    )
    op.create_index(
        "ix_turn_files_author_id",
        "turn_files",
        ["author_id"],
        sqlite_where=sa.text("author_id IS NOT NULL"),
        postgresql_where=sa.text("author_id IS NOT NULL"),
    )
    _create_deliveries()
    op.create_table(
        "discord_application",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False, comment="Always 1"),
        sa.Column("application_id", sa.BigInteger(), nullable=False, comment="Application whose bot uses it"),
        sa.Column("since", TIME, nullable=False, comment="When that bot was first started with it"),
        sa.CheckConstraint("id = 1", name="ck_discord_application_one_row"),
        sa.PrimaryKeyConstraint("id", name="pk_discord_application"),
        comment="The Discord application that this database belongs to",
    )


def _create_deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("id", ROW_ID, nullable=False, comment="Row id, never used again"),
        sa.Column(
            "turn_id",
            ROW_ID,
            nullable=True,
            comment="Turn; NULL while a message waits for its own, and where messages are to say that theirs was "
            "forgotten",
        ),
        sa.Column(
            "state",
            sa.Text(),
            nullable=False,
            comment="writing while the reply is generated, ready while its messages are sent, done",
        ),
        sa.Column("owner", sa.Text(), nullable=True, comment="Process that delivers it: tells a crash from a slow one"),
        sa.Column("application_id", sa.BigInteger(), nullable=True, comment="Application of the interaction"),
        sa.Column(
            "reply_token",
            sa.Text(),
            nullable=True,
            comment="Interaction token; NULL for a reply to a message, and once all is shown",
        ),
        sa.Column("token_expires_at", TIME, nullable=True, comment="When the token expires"),
        sa.Column("ephemeral", sa.Boolean(), nullable=False, comment="Whether only the member sees it"),
        sa.Column("guild_id", sa.BigInteger(), nullable=False, comment="Guild, 0 for direct messages"),
        sa.Column("channel_id", sa.BigInteger(), nullable=False, comment="Channel or thread, 0 where the bot is not"),
        sa.Column("question_id", sa.BigInteger(), nullable=True, comment="Message that it replies to, if there is one"),
        sa.Column(
            "about_id", sa.BigInteger(), nullable=True, comment="Message of someone else that was asked about, if any"
        ),
        sa.Column("asker_id", sa.BigInteger(), nullable=False, comment="User who is named if the reply arrives late"),
        sa.Column(
            "nonce",
            sa.BigInteger(),
            nullable=False,
            comment="Interaction or message that asked for this text: makes a message sent twice appear once",
        ),
        sa.Column("created_at", TIME, nullable=False, comment="When the turn began, or its reply was changed"),
        sa.Column(
            "attempts",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="How often a process took it up that another one had left",
        ),
        sa.Column("retry_at", TIME, nullable=True, comment="Not to be taken up before: Discord could not be reached"),
        sa.CheckConstraint("state IN ('writing', 'ready', 'done')", name="ck_deliveries_state"),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name="fk_deliveries_turn_id_turns", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
        comment="Where the reply of a turn is shown, and how far that has come",
        sqlite_autoincrement=True,
    )
    op.create_index("ix_deliveries_turn_id", "deliveries", ["turn_id"])
    op.create_index(
        "ix_deliveries_unfinished",
        "deliveries",
        ["created_at"],
        sqlite_where=sa.text(UNFINISHED),
        postgresql_where=sa.text(UNFINISHED),
    )
    op.create_table(
        "delivery_messages",
        sa.Column("delivery_id", ROW_ID, autoincrement=False, nullable=False, comment="Delivery"),
        sa.Column(
            "position", sa.Integer(), autoincrement=False, nullable=False, comment="0, 1, 2, ... within the reply"
        ),
        sa.Column(
            "message_id",
            sa.BigInteger(),
            nullable=True,
            comment="Message on Discord; NULL until it is known to have been sent",
        ),
        sa.Column(
            "content",
            sa.Text(),
            nullable=True,
            comment="Text still to be shown, sealed when encryption is on; NULL once it is",
        ),
        sa.Column("with_file", sa.Boolean(), nullable=False, comment="Whether the whole reply is attached as a file"),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["deliveries.id"], name="fk_delivery_messages_delivery_id_deliveries", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("delivery_id", "position", name="pk_delivery_messages"),
        comment="The Discord messages of each delivery, in their order",
    )
    op.create_index("ix_delivery_messages_message_id", "delivery_messages", ["message_id"])


def _is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _add_column(table: str, name: str, postgres_type: str, sqlite_type: str, comment: str) -> None:
    """Add a nullable column with its comment. SQLite keeps the text of the column, comment included."""
    if _is_sqlite():
        op.execute(f"ALTER TABLE {table} ADD COLUMN {name} {sqlite_type} /* {comment} */")
    else:
        op.execute(f"ALTER TABLE {table} ADD COLUMN {name} {postgres_type}")
        op.execute(f"COMMENT ON COLUMN {table}.{name} IS '{comment}'")


def _add_author_key() -> None:
    """Add the foreign key of turns.author_id."""
    constraint = "CONSTRAINT fk_turns_author_id_users FOREIGN KEY(author_id) REFERENCES users (id) ON DELETE CASCADE"
    if not _is_sqlite():
        op.execute(f"ALTER TABLE turns ADD {constraint}")
        return
    # SQLite adds a constraint by copying the table only. Its own text of the table keeps the comments.
    connection = op.get_bind()
    schema = sa.text("SELECT sql FROM sqlite_master WHERE tbl_name = 'turns' AND type = :type AND sql IS NOT NULL")
    (table,) = connection.scalars(schema, {"type": "table"})
    indexes = connection.scalars(schema, {"type": "index"}).all()
    columns, _, _ = table.partition("(")[2].rpartition(")")
    connection.exec_driver_sql(f"CREATE TABLE new_turns ({columns}, {constraint})")
    op.execute("INSERT INTO new_turns SELECT * FROM turns")
    # AUTOINCREMENT: the ids of deleted rows are not used again.
    op.execute("DELETE FROM sqlite_sequence WHERE name = 'new_turns'")
    op.execute("UPDATE sqlite_sequence SET name = 'new_turns' WHERE name = 'turns'")
    op.drop_table("turns")
    op.rename_table("new_turns", "turns")
    for index in indexes:
        connection.exec_driver_sql(index)


def _replace_open_index(condition: str) -> None:
    op.drop_index("uq_dialogs_open", "dialogs")
    op.create_index(
        "uq_dialogs_open",
        "dialogs",
        ["guild_id", "user_id", "channel_id"],
        unique=True,
        sqlite_where=sa.text(condition),
        postgresql_where=sa.text(condition),
    )


def _replace_scopes(scopes: str, default: str, comment: str, names: dict[str, str]) -> None:
    """Allow other values of guild_settings.dialog_scope and rename the stored ones."""
    cases = " ".join(f"WHEN '{old}' THEN '{new}'" for old, new in names.items())
    renamed = f"CASE dialog_scope {cases} ELSE '{default}' END"
    if not _is_sqlite():
        op.drop_constraint("ck_guild_settings_dialog_scope", "guild_settings", type_="check")
        op.execute(f"UPDATE guild_settings SET dialog_scope = {renamed}")  # noqa: S608 - constants of this file
        op.alter_column("guild_settings", "dialog_scope", server_default=default, comment=comment)
        op.create_check_constraint("ck_guild_settings_dialog_scope", "guild_settings", f"dialog_scope IN ({scopes})")
        return
    op.rename_table("guild_settings", "old_guild_settings")
    _create_guild_settings(scopes, default, comment)
    names_of_columns = (
        "guild_id, max_chat_logs, max_reply_tokens, retention_days, session_ttl_s, daily_turns, daily_tokens, "
        "own_personas, streaming, locale, updated_at"
    )
    op.execute(
        f"INSERT INTO guild_settings ({names_of_columns}, dialog_scope) "  # noqa: S608 - constants of this file
        f"SELECT {names_of_columns}, {renamed} FROM old_guild_settings"
    )
    op.drop_table("old_guild_settings")


def _create_guild_settings(scopes: str, default: str, scope_comment: str) -> None:
    """The table as of revision 0002, for SQLite, which cannot change a CHECK or a comment in place."""
    op.create_table(
        "guild_settings",
        sa.Column("guild_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Guild"),
        sa.Column("dialog_scope", sa.Text(), server_default=default, nullable=False, comment=scope_comment),
        sa.Column("max_chat_logs", sa.Integer(), nullable=True, comment="Pairs of history in a prompt"),
        sa.Column("max_reply_tokens", sa.Integer(), nullable=True, comment="Longest reply, in tokens"),
        sa.Column("retention_days", sa.Integer(), nullable=True, comment="Days an ended dialog is kept"),
        sa.Column("session_ttl_s", sa.Integer(), nullable=True, comment="Idle seconds after which a dialog ends"),
        sa.Column("daily_turns", sa.Integer(), nullable=True, comment="Turns a member may have in one UTC day"),
        sa.Column("daily_tokens", sa.Integer(), nullable=True, comment="Tokens a member may use in one UTC day"),
        sa.Column(
            "own_personas",
            sa.Boolean(),
            server_default=sa.true(),
            nullable=False,
            comment="Whether members may set their own persona",
        ),
        sa.Column(
            "streaming",
            sa.Boolean(),
            server_default=sa.true(),
            nullable=False,
            comment="Whether replies grow while they are written",
        ),
        sa.Column("locale", sa.Text(), nullable=True, comment="Language of the texts for the guild, such as en-GB"),
        sa.Column("updated_at", TIME, nullable=False, comment="When an admin last changed it"),
        sa.CheckConstraint(f"dialog_scope IN ({scopes})", name="ck_guild_settings_dialog_scope"),
        sa.CheckConstraint("daily_turns >= 0 AND daily_tokens >= 0", name="ck_guild_settings_quotas"),
        sa.CheckConstraint("max_chat_logs BETWEEN 0 AND 1000", name="ck_guild_settings_max_chat_logs"),
        sa.CheckConstraint("max_reply_tokens > 0", name="ck_guild_settings_max_reply_tokens"),
        sa.CheckConstraint("retention_days >= 0", name="ck_guild_settings_retention_days"),
        sa.CheckConstraint("session_ttl_s > 0", name="ck_guild_settings_session_ttl_s"),
        sa.ForeignKeyConstraint(
            ["guild_id"], ["guilds.id"], name="fk_guild_settings_guild_id_guilds", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("guild_id", name="pk_guild_settings"),
        comment="What the admins of a guild chose; a missing row means all defaults",
    )


def downgrade() -> None:
    """Drop what was added. Shared dialogs and their turns are lost, parked dialogs are ended."""
    _add_column("turns", "reply_token", "TEXT", "TEXT",
                "Interaction token for editing a cut-off reply; NULL once finished")  # fmt: skip
    _add_column("turns", "application_id", "BIGINT", "BIGINT", "Application the token belongs to")
    op.create_index(
        "ix_turns_reply_token",
        "turns",
        ["created_at"],
        sqlite_where=sa.text("reply_token IS NOT NULL"),
        postgresql_where=sa.text("reply_token IS NOT NULL"),
    )
    for table in (
        "discord_application",
        "delivery_messages",
        "deliveries",
        "turn_files",
        "bound_threads",
        "channel_scopes",
    ):
        op.drop_table(table)
    op.execute("DELETE FROM turns WHERE dialog_id IN (SELECT id FROM dialogs WHERE user_id = 0)")
    op.execute("DELETE FROM dialogs WHERE user_id = 0")
    op.execute("UPDATE dialogs SET ended_at = parked_at, end_reason = 'idle' WHERE parked_at IS NOT NULL")
    _replace_open_index("ended_at IS NULL")
    old_names = {new: old for old, new in NAMES.items()}
    _replace_scopes(OLD_SCOPES, "user", OLD_SCOPE_COMMENT, old_names)
    op.drop_index("ix_turns_author_id", "turns")
    for table, columns in (
        ("turns", ("files_note", "replaces_id", "author_name", "author_id")),
        ("dialogs", ("name", "parked_at")),
    ):
        with op.batch_alter_table(table) as batch:
            for column in columns:
                if column == "author_id":
                    batch.drop_constraint("fk_turns_author_id_users", type_="foreignkey")
                batch.drop_column(column)
