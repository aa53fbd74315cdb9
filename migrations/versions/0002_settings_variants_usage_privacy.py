"""Add settings, reply variants, usage, the audit log, opt-outs and processed interactions.

Revision: 0002, after 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create the tables and fill those that can be derived from existing turns."""
    op.create_table(
        "opt_outs",
        sa.Column("user_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Who opted out"),
        sa.Column("since", TIME, nullable=False, comment="When they opted out"),
        sa.PrimaryKeyConstraint("user_id", name="pk_opt_outs"),
        comment="People of whom no message is stored; outlives the deletion of their data",
    )
    op.create_table(
        "processed_interactions",
        sa.Column(
            "interaction_id",
            sa.BigInteger(),
            autoincrement=False,
            nullable=False,
            comment="Snowflake of the interaction or message",
        ),
        sa.Column("processed_at", TIME, nullable=False, comment="When it was taken up; forgotten after two days"),
        sa.PrimaryKeyConstraint("interaction_id", name="pk_processed_interactions"),
        comment="Interactions and messages already taken up, so that a replay is not answered twice",
    )
    op.create_index("ix_processed_interactions_at", "processed_interactions", ["processed_at"])
    op.create_table(
        "audit_log",
        sa.Column("id", ROW_ID, nullable=False, comment="Row id, never used again"),
        sa.Column("guild_id", sa.BigInteger(), nullable=True, comment="Guild it concerns; NULL for the operator"),
        sa.Column("actor_id", sa.BigInteger(), nullable=True, comment="Who did it; NULL once that person was deleted"),
        sa.Column("target_id", sa.BigInteger(), nullable=True, comment="Whom it was done to"),
        sa.Column("action", sa.Text(), nullable=False, comment="Dotted verb, such as persona.set"),
        sa.Column(
            "details", sa.Text(), server_default="{}", nullable=False, comment="JSON: changed settings or counts"
        ),
        sa.Column("created_at", TIME, nullable=False, comment="When it was done"),
        sa.ForeignKeyConstraint(["actor_id"], ["users.id"], name="fk_audit_log_actor_id_users", ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["guild_id"], ["guilds.id"], name="fk_audit_log_guild_id_guilds", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["target_id"], ["users.id"], name="fk_audit_log_target_id_users", ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name="pk_audit_log"),
        comment="What admins and the operator did; never holds message text",
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_log_actor_id", "audit_log", ["actor_id"])
    op.create_index("ix_audit_log_guild_id", "audit_log", ["guild_id", "id"])
    op.create_index("ix_audit_log_target_id", "audit_log", ["target_id"])
    op.create_table(
        "daily_usage",
        sa.Column("guild_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Guild"),
        sa.Column("user_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Member"),
        sa.Column("day", sa.Date(), nullable=False, comment="UTC day"),
        sa.Column("turns", sa.Integer(), nullable=False, comment="Finished turns"),
        sa.Column("prompt_tokens", sa.Integer(), nullable=False, comment="Tokens of their prompts"),
        sa.Column("completion_tokens", sa.Integer(), nullable=False, comment="Tokens of their replies"),
        sa.CheckConstraint(
            "turns >= 0 AND prompt_tokens >= 0 AND completion_tokens >= 0", name="ck_daily_usage_counts"
        ),
        sa.ForeignKeyConstraint(["guild_id"], ["guilds.id"], name="fk_daily_usage_guild_id_guilds", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_daily_usage_user_id_users", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("guild_id", "user_id", "day", name="pk_daily_usage"),
        comment="Finished turns and tokens of each member of each guild by UTC day",
    )
    op.create_index("ix_daily_usage_day", "daily_usage", ["day"])
    op.create_index("ix_daily_usage_user_id", "daily_usage", ["user_id"])
    op.create_table(
        "guild_channels",
        sa.Column("guild_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Guild"),
        sa.Column("channel_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Allowed channel"),
        sa.ForeignKeyConstraint(
            ["guild_id"], ["guilds.id"], name="fk_guild_channels_guild_id_guilds", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("guild_id", "channel_id", name="pk_guild_channels"),
        comment="Channels the bot may answer in; none listed means all",
    )
    op.create_table(
        "guild_roles",
        sa.Column("guild_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Guild"),
        sa.Column("role_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Role of the guild"),
        sa.Column(
            "allowed",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="Whether the role is on the list that may chat",
        ),
        sa.Column(
            "daily_turns", sa.Integer(), nullable=True, comment="Turns a day for this role instead of the usual number"
        ),
        sa.CheckConstraint("daily_turns >= 0", name="ck_guild_roles_daily_turns"),
        sa.ForeignKeyConstraint(["guild_id"], ["guilds.id"], name="fk_guild_roles_guild_id_guilds", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("guild_id", "role_id", name="pk_guild_roles"),
        comment="Roles that may chat, none allowed means everyone, and their own daily quota",
    )
    op.create_table(
        "guild_settings",
        sa.Column("guild_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Guild"),
        sa.Column(
            "dialog_scope",
            sa.Text(),
            server_default="user",
            nullable=False,
            comment="One dialog a member in the whole guild, in each channel or in each thread",
        ),
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
        sa.CheckConstraint("dialog_scope IN ('user', 'channel', 'thread')", name="ck_guild_settings_dialog_scope"),
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
    op.create_table(
        "member_settings",
        sa.Column("guild_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Guild"),
        sa.Column("user_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Member"),
        sa.Column(
            "max_chat_logs",
            sa.Integer(),
            nullable=True,
            comment="Pairs of history in a prompt, at most what the guild allows",
        ),
        sa.Column(
            "retention_days",
            sa.Integer(),
            nullable=True,
            comment="Days an ended dialog is kept, if shorter than the usual",
        ),
        sa.Column(
            "private", sa.Boolean(), nullable=True, comment="Whether replies are ephemeral unless asked otherwise"
        ),
        sa.Column("locale", sa.Text(), nullable=True, comment="Language of the texts for this member"),
        sa.Column("blocked_at", TIME, nullable=True, comment="When an admin blocked the member"),
        sa.Column("updated_at", TIME, nullable=False, comment="When it last changed"),
        sa.CheckConstraint("max_chat_logs BETWEEN 0 AND 1000", name="ck_member_settings_max_chat_logs"),
        sa.CheckConstraint("retention_days >= 0", name="ck_member_settings_retention_days"),
        sa.ForeignKeyConstraint(
            ["guild_id"], ["guilds.id"], name="fk_member_settings_guild_id_guilds", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_member_settings_user_id_users", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("guild_id", "user_id", name="pk_member_settings"),
        comment="What a member chose for this guild, and whether an admin has blocked them",
    )
    op.create_index(
        "ix_member_settings_retention",
        "member_settings",
        ["retention_days"],
        sqlite_where=sa.text("retention_days IS NOT NULL"),
        postgresql_where=sa.text("retention_days IS NOT NULL"),
    )
    op.create_index("ix_member_settings_user_id", "member_settings", ["user_id"])
    op.create_table(
        "reply_variants",
        sa.Column("turn_id", ROW_ID, autoincrement=False, nullable=False, comment="Turn"),
        sa.Column(
            "position", sa.Integer(), autoincrement=False, nullable=False, comment="1, 2, 3, ... within the turn"
        ),
        sa.Column("active", sa.Boolean(), nullable=False, comment="Whether it is the one in the history; one a turn"),
        sa.Column("reply", sa.Text(), nullable=False, comment="The reply, sealed when encryption is on"),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True, comment="Tokens of the prompt"),
        sa.Column("completion_tokens", sa.Integer(), nullable=True, comment="Tokens of the reply"),
        sa.Column("finish_reason", sa.Text(), nullable=True, comment="stop, length, stopped, ..."),
        sa.Column("created_at", TIME, nullable=False, comment="When this reply was finished"),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name="fk_reply_variants_turn_id_turns", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("turn_id", "position", name="pk_reply_variants"),
        comment="All replies of a turn that was regenerated; the active one is also in the turn itself",
    )
    op.create_index(
        "uq_reply_variants_active",
        "reply_variants",
        ["turn_id"],
        unique=True,
        sqlite_where=sa.text("active"),
        postgresql_where=sa.text("active"),
    )
    _fill_from_turns()


def _fill_from_turns() -> None:
    """Derive processed interactions and daily usage from the turns stored so far."""
    op.execute(
        "INSERT INTO processed_interactions (interaction_id, processed_at) "
        "SELECT interaction_id, created_at FROM turns WHERE interaction_id IS NOT NULL"
    )
    usage = (
        "INSERT INTO daily_usage (guild_id, user_id, day, turns, prompt_tokens, completion_tokens) "
        "SELECT d.guild_id, d.user_id, DAY_OF_TURN, count(*), "
        "sum(coalesce(t.prompt_tokens, 0)), sum(coalesce(t.completion_tokens, 0)) "
        "FROM turns t JOIN dialogs d ON d.id = t.dialog_id WHERE t.status = 'done' GROUP BY 1, 2, DAY_OF_TURN"
    )
    sqlite = op.get_bind().dialect.name == "sqlite"
    day = "date(t.created_at)" if sqlite else "(t.created_at AT TIME ZONE 'UTC')::date"
    op.execute(usage.replace("DAY_OF_TURN", day))


def downgrade() -> None:
    """Drop the tables; what they hold is lost."""
    op.drop_table("reply_variants")
    op.drop_table("member_settings")
    op.drop_table("guild_settings")
    op.drop_table("guild_roles")
    op.drop_table("guild_channels")
    op.drop_table("daily_usage")
    op.drop_table("audit_log")
    op.drop_table("processed_interactions")
    op.drop_table("opt_outs")
