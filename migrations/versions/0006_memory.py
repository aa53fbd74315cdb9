"""Remember: summaries of dialogs, facts of members, and who asked for it.

Revision: 0006, after 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Nothing is remembered of anyone yet: guilds and members have to choose it."""
    false = "0" if _is_sqlite() else "false"
    _add_column("guild_settings", "memory", f"BOOLEAN DEFAULT {false} NOT NULL",
                "Whether members may have me remember what prompts no longer contain")  # fmt: skip
    _add_column("member_settings", "memory", "BOOLEAN",
                "Whether the member wants to be remembered beyond the conversation; NULL: no")  # fmt: skip
    op.create_index(
        "ix_member_settings_memory",
        "member_settings",
        ["guild_id", "user_id"],
        sqlite_where=sa.text("memory IS 1"),  # as each database is asked
        postgresql_where=sa.text("memory IS TRUE"),
    )
    op.create_table(
        "dialog_summaries",
        sa.Column("id", ROW_ID, nullable=False, comment="Row id, never used again"),
        sa.Column("dialog_id", ROW_ID, nullable=False, comment="Dialog that it is about"),
        sa.Column("from_turn_id", ROW_ID, nullable=False, comment="First turn that it covers"),
        sa.Column("to_turn_id", ROW_ID, nullable=False, comment="Last turn that it covers"),
        sa.Column("text", sa.Text(), nullable=False, comment="The summary, sealed when encryption is on"),
        sa.Column("created_at", TIME, nullable=False, comment="When it was written"),
        sa.CheckConstraint("from_turn_id <= to_turn_id", name="ck_dialog_summaries_range"),
        sa.ForeignKeyConstraint(
            ["dialog_id"], ["dialogs.id"], name="fk_dialog_summaries_dialog_id_dialogs", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_dialog_summaries"),
        comment="What the earlier part of a dialog was about, as the model wrote it",
        sqlite_autoincrement=True,
    )
    op.create_index("ix_dialog_summaries_dialog", "dialog_summaries", ["dialog_id", "to_turn_id"])
    op.create_table(
        "facts",
        sa.Column("id", ROW_ID, nullable=False, comment="Row id, never used again"),
        sa.Column("guild_id", sa.BigInteger(), nullable=False, comment="Guild, 0 for direct messages"),
        sa.Column("user_id", sa.BigInteger(), nullable=False, comment="Member"),
        sa.Column("text", sa.Text(), nullable=False, comment="The sentence, sealed when encryption is on"),
        sa.Column(
            "source_turn_id",
            ROW_ID,
            nullable=True,
            comment="Turn that told it, which may have expired; NULL if the member wrote it",
        ),
        sa.Column("source_at", TIME, nullable=False, comment="When it was said"),
        sa.Column("created_at", TIME, nullable=False, comment="When it was written here"),
        sa.Column(
            "last_used_at",
            TIME,
            nullable=False,
            comment="When a prompt last had it, at first as created_at; retention counts from here",
        ),
        sa.Column(
            "edited",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="Whether the member wrote or changed it",
        ),
        sa.Column(
            "private",
            sa.Boolean(),
            server_default=sa.false(),
            nullable=False,
            comment="Whether only the member saw the reply; in no prompt of a shared dialog then",
        ),
        sa.ForeignKeyConstraint(["guild_id"], ["guilds.id"], name="fk_facts_guild_id_guilds", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_facts_user_id_users", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_facts"),
        comment="What is remembered about a member in a guild, a sentence each",
        sqlite_autoincrement=True,
    )
    op.create_index("ix_facts_member", "facts", ["guild_id", "user_id"])
    op.create_index("ix_facts_user_id", "facts", ["user_id"])
    op.create_index("ix_facts_source_turn_id", "facts", ["source_turn_id"])
    op.create_index("ix_facts_last_used_at", "facts", ["last_used_at"])
    summarised = sa.text("summary_id IS NOT NULL")
    op.create_index(
        "ix_turn_prompts_summary_id",
        "turn_prompts",
        ["summary_id"],
        sqlite_where=summarised,
        postgresql_where=summarised,
    )
    _add_column("turn_prompts", "digest", "TEXT",
                "SHA-256 of the messages as they were sent, sealed when encryption is on")  # fmt: skip
    _add_column("turn_prompts", "inputs", "TEXT",
                "JSON: what else the prompt depended on, sealed when encryption is on")  # fmt: skip
    op.create_table(
        "memory_work",
        sa.Column("dialog_id", ROW_ID, autoincrement=False, nullable=False, comment="Dialog"),
        sa.Column(
            "facts_to_turn_id",
            ROW_ID,
            server_default="0",
            nullable=False,
            comment="Last turn whose message was looked at for facts",
        ),
        sa.Column("owner", sa.Text(), nullable=True, comment="Process that writes now, as in turns.owner"),
        sa.Column("claimed_at", TIME, nullable=True, comment="Since when it does"),
        sa.Column(
            "failures",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Attempts in a row that came to nothing",
        ),
        sa.Column("retry_at", TIME, nullable=True, comment="Not to be tried again before"),
        sa.ForeignKeyConstraint(
            ["dialog_id"], ["dialogs.id"], name="fk_memory_work_dialog_id_dialogs", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("dialog_id", name="pk_memory_work"),
        comment="Dialogs whose summary and facts are written, one process at a time",
    )


def downgrade() -> None:
    """What was remembered is lost, that a guild or a member chose it, and how prompts were sent."""
    for table in ("memory_work", "facts", "dialog_summaries"):
        op.drop_table(table)
    op.drop_index("ix_turn_prompts_summary_id", "turn_prompts")
    op.drop_index("ix_member_settings_memory", "member_settings")
    for table in ("member_settings", "guild_settings"):
        op.execute(f"ALTER TABLE {table} DROP COLUMN memory")
    for column in ("digest", "inputs"):
        op.execute(f"ALTER TABLE turn_prompts DROP COLUMN {column}")


def _is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _add_column(table: str, name: str, definition: str, comment: str) -> None:
    """Add a column with its comment. SQLite keeps the text of the column, comment included."""
    if _is_sqlite():
        op.execute(f"ALTER TABLE {table} ADD COLUMN {name} {definition} /* {comment} */")
    else:
        op.execute(f"ALTER TABLE {table} ADD COLUMN {name} {definition}")
        op.execute(f"COMMENT ON COLUMN {table}.{name} IS '{comment}'")
