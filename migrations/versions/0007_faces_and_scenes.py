"""Give personas a face: how their names are shown, who spoke a reply, the bot's own profile, and scenes of several.

Revision: 0007, after 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_ID = "Persona whose name stands above the reply, which may have been deleted since; NULL where none does"
_NAME = "Its name at that time, sealed when encryption is on"


def upgrade() -> None:
    """No guild has asked for a face yet: replies look as they did."""
    _add_column(
        "guild_settings",
        "persona_face",
        "TEXT DEFAULT 'off' NOT NULL CONSTRAINT ck_guild_settings_persona_face "
        "CHECK (persona_face IN ('off', 'name', 'profile'))",
        "How a persona is seen: not at all, by its name above replies, or as my own profile",
    )
    for table in ("turns", "reply_variants"):
        _add_column(table, "speaker_id", "INTEGER" if _is_sqlite() else "BIGINT", _ID)
        _add_column(table, "speaker_name", "TEXT", _NAME)
    _create_profiles()
    _create_scenes()


def _create_profiles() -> None:
    op.create_table(
        "guild_profiles",
        sa.Column("guild_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Guild"),
        sa.Column(
            "persona_id",
            ROW_ID,
            nullable=True,
            comment="Persona that the profile shows; NULL: none",
        ),
        sa.Column(
            "fingerprint", sa.Text(), nullable=False, comment="Hash of the name and picture that Discord was sent last"
        ),
        sa.Column(
            "problem",
            sa.Text(),
            nullable=True,
            comment="Why it may not be shown: sending, slower, forbidden or refused",
        ),
        sa.Column("sent_at", TIME, nullable=False, comment="When they were sent; the next change waits from here"),
        sa.ForeignKeyConstraint(
            ["guild_id"], ["guilds.id"], name="fk_guild_profiles_guild_id_guilds", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("guild_id", name="pk_guild_profiles"),
        comment="What the bot is called in a guild where it has a profile of its own",
    )


def _create_scenes() -> None:
    op.create_table(
        "scenes",
        sa.Column("guild_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Guild"),
        sa.Column("place_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Channel or thread"),
        sa.Column(
            "speak",
            sa.Text(),
            server_default="turn",
            nullable=False,
            comment="Who speaks if the message names no character: in turn, or as the model chooses",
        ),
        sa.CheckConstraint("speak IN ('turn', 'model')", name="ck_scenes_speak"),
        sa.ForeignKeyConstraint(["guild_id"], ["guilds.id"], name="fk_scenes_guild_id_guilds", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("guild_id", "place_id", name="pk_scenes"),
        comment="Channels and threads in which several characters answer",
    )
    op.create_table(
        "scene_characters",
        sa.Column("guild_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Guild"),
        sa.Column("place_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Channel or thread"),
        sa.Column("persona_id", ROW_ID, autoincrement=False, nullable=False, comment="Persona of the guild"),
        sa.Column("position", sa.Integer(), nullable=False, comment="Its turn among the others"),
        sa.ForeignKeyConstraint(
            ["guild_id", "place_id"],
            ["scenes.guild_id", "scenes.place_id"],
            name="fk_scene_characters_guild_id_scenes",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["persona_id"], ["personas.id"], name="fk_scene_characters_persona_id_personas", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("guild_id", "place_id", "persona_id", name="pk_scene_characters"),
        comment="The characters of a scene",
    )
    op.create_index("ix_scene_characters_persona_id", "scene_characters", ["persona_id"])


def downgrade() -> None:
    """Drop all of it; replies keep their words, and nobody can tell who spoke them."""
    op.drop_table("scene_characters")
    op.drop_table("scenes")
    op.drop_table("guild_profiles")
    for table in ("reply_variants", "turns"):
        for column in ("speaker_name", "speaker_id"):
            op.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
    op.execute("ALTER TABLE guild_settings DROP COLUMN persona_face")


def _is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _add_column(table: str, name: str, definition: str, comment: str) -> None:
    """Add a column with its comment. SQLite keeps the text of the column, comment included."""
    if _is_sqlite():
        op.execute(f"ALTER TABLE {table} ADD COLUMN {name} {definition} /* {comment} */")
    else:
        op.execute(f"ALTER TABLE {table} ADD COLUMN {name} {definition}")
        op.execute(f"COMMENT ON COLUMN {table}.{name} IS '{comment}'")
