"""Create guilds, users, dialogs, turns, personas and persona versions.

Revision: 0001, the first
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the tables and their indexes."""
    op.create_table(
        "guilds",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Snowflake of the guild"),
        sa.Column("first_seen_at", TIME, nullable=False, comment="When the first row of this guild was written"),
        sa.Column(
            "joined_at",
            TIME,
            nullable=True,
            comment="When the gateway first named it; NULL for a guild known from the terminal only",
        ),
        sa.Column(
            "removed_at",
            TIME,
            nullable=True,
            comment="When the bot was removed; the guild is purged after a grace period unless it comes back",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_guilds"),
        comment="Guilds the bot has talked in; 0 stands for direct messages",
    )
    op.create_index(
        "ix_guilds_removed_at",
        "guilds",
        ["removed_at"],
        sqlite_where=sa.text("removed_at IS NOT NULL"),
        postgresql_where=sa.text("removed_at IS NOT NULL"),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Snowflake of the user"),
        sa.Column("first_seen_at", TIME, nullable=False, comment="When the first row of this user was written"),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        comment="People the bot has talked with",
    )
    op.create_table(
        "dialogs",
        sa.Column("id", ROW_ID, nullable=False, comment="Row id, never used again"),
        sa.Column("guild_id", sa.BigInteger(), nullable=False, comment="Guild, 0 for direct messages"),
        sa.Column("user_id", sa.BigInteger(), nullable=False, comment="Whose dialog it is"),
        sa.Column(
            "channel_id",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Channel or thread where the guild chose that scope, else 0",
        ),
        sa.Column("opened_at", TIME, nullable=False, comment="When its first turn began"),
        sa.Column("last_active_at", TIME, nullable=False, comment="When its last turn began or finished"),
        sa.Column("ended_at", TIME, nullable=True, comment="NULL while open; retention counts from here"),
        sa.Column("end_reason", sa.Text(), nullable=True, comment="reset, idle or removed"),
        sa.ForeignKeyConstraint(["guild_id"], ["guilds.id"], name="fk_dialogs_guild_id_guilds", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_dialogs_user_id_users", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_dialogs"),
        comment="Chat sessions of one user in one guild; at most one is open per key",
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_dialogs_ended",
        "dialogs",
        ["ended_at"],
        sqlite_where=sa.text("ended_at IS NOT NULL"),
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )
    op.create_index(
        "ix_dialogs_idle",
        "dialogs",
        ["last_active_at"],
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_index("ix_dialogs_member", "dialogs", ["guild_id", "user_id"])
    op.create_index("ix_dialogs_user_id", "dialogs", ["user_id"])
    op.create_index(
        "uq_dialogs_open",
        "dialogs",
        ["guild_id", "user_id", "channel_id"],
        unique=True,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "personas",
        sa.Column("id", ROW_ID, nullable=False, comment="Row id, never used again"),
        sa.Column("guild_id", sa.BigInteger(), nullable=False, comment="Guild the persona lives in"),
        sa.Column("level", sa.Text(), nullable=False, comment="guild, channel or member: the narrowest set one wins"),
        sa.Column(
            "channel_id",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Channel that the persona is for, else 0",
        ),
        sa.Column("user_id", sa.BigInteger(), nullable=True, comment="Member that the persona is for, else NULL"),
        sa.Column("active_version", sa.Integer(), nullable=True, comment="Version in force; NULL after clear"),
        sa.CheckConstraint("(level = 'channel') = (channel_id <> 0)", name="ck_personas_channel"),
        sa.CheckConstraint("(level = 'member') = (user_id IS NOT NULL)", name="ck_personas_member"),
        sa.CheckConstraint("level IN ('guild', 'channel', 'member')", name="ck_personas_level"),
        sa.ForeignKeyConstraint(["guild_id"], ["guilds.id"], name="fk_personas_guild_id_guilds", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_personas_user_id_users", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_personas"),
        comment="The persona slot of a guild, a channel or a member",
        sqlite_autoincrement=True,
    )
    op.create_index("ix_personas_user_id", "personas", ["user_id"])
    op.create_index(
        "uq_personas_channel",
        "personas",
        ["guild_id", "channel_id"],
        unique=True,
        sqlite_where=sa.text("level = 'channel'"),
        postgresql_where=sa.text("level = 'channel'"),
    )
    op.create_index(
        "uq_personas_guild",
        "personas",
        ["guild_id"],
        unique=True,
        sqlite_where=sa.text("level = 'guild'"),
        postgresql_where=sa.text("level = 'guild'"),
    )
    op.create_index(
        "uq_personas_member",
        "personas",
        ["guild_id", "user_id"],
        unique=True,
        sqlite_where=sa.text("level = 'member'"),
        postgresql_where=sa.text("level = 'member'"),
    )
    op.create_table(
        "persona_versions",
        sa.Column("persona_id", ROW_ID, autoincrement=False, nullable=False, comment="Persona"),
        sa.Column(
            "version", sa.Integer(), autoincrement=False, nullable=False, comment="1, 2, 3, ... within the persona"
        ),
        sa.Column("name", sa.Text(), nullable=False, comment="Display name"),
        sa.Column("prompt", sa.Text(), nullable=False, comment="System prompt, sealed when encryption is on"),
        sa.Column(
            "author_id",
            sa.BigInteger(),
            nullable=True,
            comment="Who wrote it; NULL once that person asked to be deleted",
        ),
        sa.Column("created_at", TIME, nullable=False, comment="When it was written"),
        sa.ForeignKeyConstraint(
            ["author_id"], ["users.id"], name="fk_persona_versions_author_id_users", ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(
            ["persona_id"], ["personas.id"], name="fk_persona_versions_persona_id_personas", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("persona_id", "version", name="pk_persona_versions"),
        comment="Every text a persona has had, so that a change can be rolled back",
    )
    op.create_index("ix_persona_versions_author_id", "persona_versions", ["author_id"])
    op.create_table(
        "turns",
        sa.Column("id", ROW_ID, nullable=False, comment="Row id, never used again; orders the turns"),
        sa.Column("dialog_id", ROW_ID, nullable=False, comment="Dialog the pair belongs to"),
        sa.Column(
            "interaction_id",
            sa.BigInteger(),
            nullable=True,
            comment="Interaction or message that asked; NULL from the terminal",
        ),
        sa.Column("status", sa.Text(), nullable=False, comment="pending, done, failed or interrupted"),
        sa.Column(
            "user_text", sa.Text(), nullable=False, comment="What the member wrote, sealed when encryption is on"
        ),
        sa.Column(
            "reply", sa.Text(), nullable=True, comment="The active reply, sealed when encryption is on; set if done"
        ),
        sa.Column(
            "reply_token",
            sa.Text(),
            nullable=True,
            comment="Interaction token for editing a cut-off reply; NULL once finished",
        ),
        sa.Column("application_id", sa.BigInteger(), nullable=True, comment="Application the token belongs to"),
        sa.Column(
            "owner", sa.Text(), nullable=True, comment="Process that generates it: tells a crash from a slow reply"
        ),
        sa.Column("error_id", sa.Text(), nullable=True, comment="Id shown to the member when it failed, as in the log"),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True, comment="Tokens of the prompt"),
        sa.Column("completion_tokens", sa.Integer(), nullable=True, comment="Tokens of the reply"),
        sa.Column("finish_reason", sa.Text(), nullable=True, comment="stop, length, stopped, ..."),
        sa.Column("first_token_ms", sa.Integer(), nullable=True, comment="Milliseconds to the first token"),
        sa.Column("total_ms", sa.Integer(), nullable=True, comment="Milliseconds to the last token"),
        sa.Column("created_at", TIME, nullable=False, comment="When the turn began"),
        sa.Column("finished_at", TIME, nullable=True, comment="When it left pending"),
        sa.CheckConstraint("(status = 'done') = (reply IS NOT NULL)", name="ck_turns_whole_pair"),
        sa.CheckConstraint("status IN ('pending', 'done', 'failed', 'interrupted')", name="ck_turns_status"),
        sa.ForeignKeyConstraint(["dialog_id"], ["dialogs.id"], name="fk_turns_dialog_id_dialogs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_turns"),
        sa.UniqueConstraint("interaction_id", name="uq_turns_interaction_id"),
        comment="One pair each: what the member wrote and the reply",
        sqlite_autoincrement=True,
    )
    op.create_index("ix_turns_dialog", "turns", ["dialog_id", "id"])
    op.create_index(
        "ix_turns_pending",
        "turns",
        ["created_at"],
        sqlite_where=sa.text("status = 'pending'"),
        postgresql_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        "ix_turns_reply_token",
        "turns",
        ["created_at"],
        sqlite_where=sa.text("reply_token IS NOT NULL"),
        postgresql_where=sa.text("reply_token IS NOT NULL"),
    )


def downgrade() -> None:
    """Drop the tables, children before parents."""
    op.drop_table("turns")
    op.drop_table("persona_versions")
    op.drop_table("personas")
    op.drop_table("dialogs")
    op.drop_table("users")
    op.drop_table("guilds")
