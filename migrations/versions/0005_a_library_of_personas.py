"""Make a library of the personas, say where each of them answers, and keep what the prompt of a turn was made of.

Revision: 0005, after 0004
"""

import json
import unicodedata
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WHO = "'members', 'roles', 'nobody'"
WHO_COMMENT = "Who may have a persona of their own: members, roles or nobody"
OLD_WHO_COMMENT = "Whether members may set their own persona"
TABLE_COMMENT = "The personas that a guild or one of its members keeps, by name"
OLD_TABLE_COMMENT = "The persona slot of a guild, a channel or a member"
OWNER_COMMENT = "Member whose own it is; NULL for one of the guild"
UNNAMED = "Persona"
MAX_NAME = 80
COLUMNS = ("name", "name_key", "tags", "created_at", "updated_at")


def upgrade() -> None:
    """Each slot becomes an entry of a library, set where the slot was; a cleared one is set nowhere."""
    _change_own_personas()
    _add_column("guild_roles", "own_persona", f"BOOLEAN DEFAULT {0 if _is_sqlite() else 'false'} NOT NULL",
                "Whether its members may have a persona of their own where only some roles may")  # fmt: skip
    _add_column("persona_versions", "card", "TEXT",
                "JSON of the character card that it was made from, sealed when encryption is on")  # fmt: skip
    slots = _slots()
    if _is_sqlite():
        _new_personas("new_personas")
        _insert("new_personas", [slot["entry"] for slot in slots])
        _replace_personas()
    else:
        _alter_personas([slot["entry"] for slot in slots])
    _index_personas()
    _create_tables()
    _insert("persona_assignments", [slot["assignment"] for slot in slots if slot["assignment"] is not None])


def _slots() -> list[dict[str, Any]]:
    """The slots of before as entries of a library and assignments. One without any text is dropped."""
    rows = op.get_bind().execute(sa.text(
        "SELECT p.id, p.guild_id, p.user_id, p.level, p.channel_id, p.active_version, v.version, v.name, "
        "v.author_id, v.created_at AS set_at, "
        "(SELECT min(created_at) FROM persona_versions WHERE persona_id = p.id) AS created_at, "
        "(SELECT max(created_at) FROM persona_versions WHERE persona_id = p.id) AS updated_at "
        "FROM personas p JOIN persona_versions v ON v.persona_id = p.id AND v.version = "
        "coalesce(p.active_version, (SELECT max(version) FROM persona_versions WHERE persona_id = p.id)) "
        "ORDER BY p.guild_id, p.level = 'channel', p.id"
    )).mappings()  # fmt: skip
    taken: dict[tuple[int, int | None], set[str]] = {}
    slots = []
    for row in rows:
        name = _free_name(row["name"], taken.setdefault((row["guild_id"], row["user_id"]), set()))
        entry = {
            "id": row["id"],
            "guild_id": row["guild_id"],
            "owner_id": row["user_id"],
            "active_version": row["version"],
            "name": name,
            "name_key": _name_key(name),
            "tags": json.dumps([]),
            "created_at": row["created_at"],
            "updated_at": row["updated_at"],
        }
        assignment = {
            "guild_id": row["guild_id"],
            "level": row["level"],
            "place_id": row["channel_id"],
            "user_id": row["user_id"],
            "persona_id": row["id"],
            "set_by": row["author_id"],
            "set_at": row["set_at"],
        }
        slots.append({"entry": entry, "assignment": None if row["active_version"] is None else assignment})
    return slots


def _free_name(name: str, taken: set[str]) -> str:
    """The name, or with a number behind it if its library has one like it."""
    name = name if _name_key(name) else UNNAMED
    number, free = 1, name
    while _name_key(free) in taken:
        number += 1
        free = f"{name[: MAX_NAME - len(f' {number}')].rstrip()} {number}"
    taken.add(_name_key(free))
    return free


def _name_key(name: str) -> str:
    visible = "".join(each for each in unicodedata.normalize("NFKC", name) if unicodedata.category(each) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", visible.casefold()).split())


def _new_personas(name: str) -> None:
    op.create_table(
        name,
        sa.Column("id", ROW_ID, nullable=False, comment="Row id, never used again"),
        sa.Column("guild_id", sa.BigInteger(), nullable=False, comment="Guild the persona lives in"),
        sa.Column(
            "owner_id", sa.BigInteger(), nullable=True, comment="Member whose own it is; NULL for one of the guild"
        ),
        sa.Column("active_version", sa.Integer(), nullable=False, comment="Version in force"),
        sa.Column("name", sa.Text(), nullable=False, comment="Display name"),
        sa.Column(
            "name_key",
            sa.Text(),
            nullable=False,
            comment="The name without differences that do not matter; one a library",
        ),
        sa.Column("tags", sa.Text(), server_default="[]", nullable=False, comment="JSON: list of words to find it by"),
        sa.Column("created_at", TIME, nullable=False, comment="When it was made"),
        sa.Column("updated_at", TIME, nullable=False, comment="When it, or where it answers, last changed"),
        sa.ForeignKeyConstraint(["guild_id"], ["guilds.id"], name="fk_personas_guild_id_guilds", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name="fk_personas_owner_id_users", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_personas"),
        comment=TABLE_COMMENT,
        sqlite_autoincrement=True,
    )


def _replace_personas() -> None:
    """Put new_personas in place of personas. AUTOINCREMENT: the ids of deleted rows are not used again."""
    op.execute("DELETE FROM sqlite_sequence WHERE name = 'new_personas'")
    op.execute("UPDATE sqlite_sequence SET name = 'new_personas' WHERE name = 'personas'")
    op.drop_table("personas")
    op.rename_table("new_personas", "personas")


def _alter_personas(entries: list[dict[str, Any]]) -> None:
    """The same on Postgres, where a table can be changed in place."""
    op.execute("DELETE FROM personas p WHERE NOT EXISTS (SELECT 1 FROM persona_versions WHERE persona_id = p.id)")
    for index in ("uq_personas_guild", "uq_personas_channel", "uq_personas_member"):
        op.drop_index(index, "personas")
    for name, definition, comment in (
        ("name", "TEXT", "Display name"),
        ("name_key", "TEXT", "The name without differences that do not matter; one a library"),
        ("tags", "TEXT DEFAULT '[]'", "JSON: list of words to find it by"),
        ("created_at", "TIMESTAMP WITH TIME ZONE", "When it was made"),
        ("updated_at", "TIMESTAMP WITH TIME ZONE", "When it, or where it answers, last changed"),
    ):
        _add_column("personas", name, definition, comment)
    _execute_many(
        "UPDATE personas SET active_version = :active_version, name = :name, name_key = :name_key, tags = :tags, "
        "created_at = :created_at, updated_at = :updated_at WHERE id = :id",
        entries,
    )
    for name in ("active_version", *COLUMNS):
        op.execute(f"ALTER TABLE personas ALTER COLUMN {name} SET NOT NULL")
    for name in ("level", "channel_id"):  # and with them the checks of these columns
        op.execute(f"ALTER TABLE personas DROP COLUMN {name}")
    op.execute("ALTER TABLE personas RENAME COLUMN user_id TO owner_id")
    op.execute("ALTER TABLE personas RENAME CONSTRAINT fk_personas_user_id_users TO fk_personas_owner_id_users")
    op.drop_index("ix_personas_user_id", "personas")
    op.execute(f"COMMENT ON COLUMN personas.owner_id IS '{OWNER_COMMENT}'")
    op.execute("COMMENT ON COLUMN personas.active_version IS 'Version in force'")
    op.execute(f"COMMENT ON TABLE personas IS '{TABLE_COMMENT}'")


def _index_personas() -> None:
    guilds, own = sa.text("owner_id IS NULL"), sa.text("owner_id IS NOT NULL")
    op.create_index("ix_personas_guild_id", "personas", ["guild_id"])
    op.create_index("ix_personas_owner_id", "personas", ["owner_id"])
    op.create_index(
        "uq_personas_guild",
        "personas",
        ["guild_id", "name_key"],
        unique=True,
        sqlite_where=guilds,
        postgresql_where=guilds,
    )
    op.create_index(
        "uq_personas_member",
        "personas",
        ["guild_id", "owner_id", "name_key"],
        unique=True,
        sqlite_where=own,
        postgresql_where=own,
    )


def _create_tables() -> None:
    op.create_table(
        "persona_pictures",
        sa.Column("persona_id", ROW_ID, autoincrement=False, nullable=False, comment="Persona"),
        sa.Column("media_type", sa.Text(), nullable=False, comment="Such as image/png"),
        sa.Column("content", sa.Text(), nullable=False, comment="The file in base64, sealed when encryption is on"),
        sa.Column("created_at", TIME, nullable=False, comment="When it was stored"),
        sa.ForeignKeyConstraint(
            ["persona_id"], ["personas.id"], name="fk_persona_pictures_persona_id_personas", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("persona_id", name="pk_persona_pictures"),
        comment="Pictures of personas",
    )
    op.create_table(
        "persona_assignments",
        sa.Column("id", ROW_ID, nullable=False, comment="Row id, never used again"),
        sa.Column("guild_id", sa.BigInteger(), nullable=False, comment="Guild"),
        sa.Column("level", sa.Text(), nullable=False, comment="guild, category, channel, thread or member"),
        sa.Column(
            "place_id",
            sa.BigInteger(),
            server_default="0",
            nullable=False,
            comment="Category, channel or thread; 0 for the guild and for a member",
        ),
        sa.Column("user_id", sa.BigInteger(), nullable=True, comment="Member that it answers, else NULL"),
        sa.Column("persona_id", ROW_ID, nullable=False, comment="Persona"),
        sa.Column("set_by", sa.BigInteger(), nullable=True, comment="Who chose it; NULL for the operator"),
        sa.Column("set_at", TIME, nullable=False, comment="When it was chosen"),
        sa.CheckConstraint("(level = 'member') = (user_id IS NOT NULL)", name="ck_persona_assignments_member"),
        sa.CheckConstraint("(level IN ('guild', 'member')) = (place_id = 0)", name="ck_persona_assignments_place"),
        sa.CheckConstraint(
            "level IN ('guild', 'category', 'channel', 'thread', 'member')", name="ck_persona_assignments_level"
        ),
        sa.ForeignKeyConstraint(
            ["guild_id"], ["guilds.id"], name="fk_persona_assignments_guild_id_guilds", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name="fk_persona_assignments_user_id_users", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["persona_id"], ["personas.id"], name="fk_persona_assignments_persona_id_personas", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["set_by"], ["users.id"], name="fk_persona_assignments_set_by_users", ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_persona_assignments"),
        comment="Which persona answers where; the narrowest one wins",
        sqlite_autoincrement=True,
    )
    for column in ("guild_id", "persona_id", "user_id", "set_by"):
        op.create_index(f"ix_persona_assignments_{column}", "persona_assignments", [column])
    for name, column, condition in (
        ("place", "place_id", "user_id IS NULL"),
        ("member", "user_id", "user_id IS NOT NULL"),
    ):
        op.create_index(
            f"uq_persona_assignments_{name}",
            "persona_assignments",
            ["guild_id", column],
            unique=True,
            sqlite_where=sa.text(condition),
            postgresql_where=sa.text(condition),
        )
    op.create_table(
        "locked_channels",
        sa.Column("guild_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Guild"),
        sa.Column(
            "channel_id", sa.BigInteger(), autoincrement=False, nullable=False, comment="Category, channel or thread"
        ),
        sa.ForeignKeyConstraint(
            ["guild_id"], ["guilds.id"], name="fk_locked_channels_guild_id_guilds", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("guild_id", "channel_id", name="pk_locked_channels"),
        comment="Categories, channels and threads in which the persona of no member answers",
    )
    op.create_table(
        "default_prompts",
        sa.Column("id", ROW_ID, nullable=False, comment="Row id, never used again"),
        sa.Column("sha256", sa.Text(), nullable=False, comment="Hash of the text, by which it is found again"),
        sa.Column("text", sa.Text(), nullable=False, comment="The prompt, sealed when encryption is on"),
        sa.Column("first_used_at", TIME, nullable=False, comment="When a turn first had it"),
        sa.PrimaryKeyConstraint("id", name="pk_default_prompts"),
        sa.UniqueConstraint("sha256", name="uq_default_prompts_sha256"),
        comment="System prompts of the settings, as far as turns were answered with them",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "turn_prompts",
        sa.Column("turn_id", ROW_ID, autoincrement=False, nullable=False, comment="Turn"),
        sa.Column(
            "persona_id",
            ROW_ID,
            nullable=True,
            comment="Persona, which may have been deleted since; NULL: the default prompt",
        ),
        sa.Column("persona_version", sa.Integer(), nullable=True, comment="Its version, kept as long as a turn has it"),
        sa.Column("default_prompt_id", ROW_ID, nullable=True, comment="Prompt of the settings, if it was that"),
        sa.Column("first_turn_id", ROW_ID, nullable=True, comment="Oldest pair in the prompt; NULL if it had none"),
        sa.Column("num_pairs", sa.Integer(), nullable=False, comment="Pairs of history in the prompt"),
        sa.Column(
            "num_examples",
            sa.Integer(),
            server_default="0",
            nullable=False,
            comment="Example turns of the card",
        ),
        sa.Column(
            "greeting",
            sa.Integer(),
            nullable=True,
            comment="Which greeting of the card stood first, from 0; NULL: none",
        ),
        sa.Column("lore", sa.Text(), nullable=True, comment="JSON: ids of the lorebook entries in the prompt"),
        sa.Column("summary_id", ROW_ID, nullable=True, comment="Summary of what came before, if there was one"),
        sa.Column("fact_ids", sa.Text(), nullable=True, comment="JSON: ids of the facts in the prompt"),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name="fk_turn_prompts_turn_id_turns", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["default_prompt_id"],
            ["default_prompts.id"],
            name="fk_turn_prompts_default_prompt_id_default_prompts",
            ondelete="SET NULL",
        ),
        sa.PrimaryKeyConstraint("turn_id", name="pk_turn_prompts"),
        comment="What the prompt of each turn was made of",
    )
    op.create_index("ix_turn_prompts_persona", "turn_prompts", ["persona_id", "persona_version"])
    op.create_index("ix_turn_prompts_default_prompt_id", "turn_prompts", ["default_prompt_id"])


def _change_own_personas() -> None:
    """guild_settings.own_personas says who may, instead of whether everyone may."""
    if _is_sqlite():
        _rebuild(
            "guild_settings",
            lambda text: _with_check(
                _replaced_column(text, "own_personas", f"TEXT DEFAULT 'members' NOT NULL /* {WHO_COMMENT} */")
            ),
            {"own_personas": "CASE WHEN own_personas THEN 'members' ELSE 'nobody' END"},
        )
        return
    op.execute("ALTER TABLE guild_settings ALTER COLUMN own_personas DROP DEFAULT")
    op.execute(
        "ALTER TABLE guild_settings ALTER COLUMN own_personas TYPE TEXT "
        "USING CASE WHEN own_personas THEN 'members' ELSE 'nobody' END"
    )
    op.execute("ALTER TABLE guild_settings ALTER COLUMN own_personas SET DEFAULT 'members'")
    op.create_check_constraint("ck_guild_settings_own_personas", "guild_settings", f"own_personas IN ({WHO})")
    op.execute(f"COMMENT ON COLUMN guild_settings.own_personas IS '{WHO_COMMENT}'")


def _change_own_personas_back() -> None:
    if _is_sqlite():
        _rebuild(
            "guild_settings",
            lambda text: _replaced_column(
                text.replace(_CHECK, ""), "own_personas", f"BOOLEAN DEFAULT 1 NOT NULL /* {OLD_WHO_COMMENT} */"
            ),
            {"own_personas": "own_personas = 'members'"},
        )
        return
    op.drop_constraint("ck_guild_settings_own_personas", "guild_settings", type_="check")
    op.execute("ALTER TABLE guild_settings ALTER COLUMN own_personas DROP DEFAULT")
    op.execute("ALTER TABLE guild_settings ALTER COLUMN own_personas TYPE BOOLEAN USING own_personas = 'members'")
    op.execute("ALTER TABLE guild_settings ALTER COLUMN own_personas SET DEFAULT true")
    op.execute(f"COMMENT ON COLUMN guild_settings.own_personas IS '{OLD_WHO_COMMENT}'")


def downgrade() -> None:
    """Keep what a slot can hold; the rest of each library, pictures, cards and what is set for categories is lost."""
    for table in ("turn_prompts", "default_prompts", "locked_channels", "persona_pictures"):
        op.drop_table(table)
    slots = _old_slots()
    op.drop_table("persona_assignments")
    _change_own_personas_back()
    op.execute("ALTER TABLE guild_roles DROP COLUMN own_persona")
    op.execute("ALTER TABLE persona_versions DROP COLUMN card")
    for index in ("ix_personas_guild_id", "ix_personas_owner_id", "uq_personas_guild", "uq_personas_member"):
        op.drop_index(index, "personas")
    seen: set[int] = set()
    kept: list[dict[str, Any]] = []
    copies: list[dict[str, Any]] = []
    for slot in slots:
        (copies if slot["id"] in seen else kept).append(slot)
        seen.add(slot["id"])
    if _is_sqlite():
        _old_personas("new_personas")
        _insert("new_personas", kept)
        _replace_personas()
    else:
        _alter_personas_back(kept)
    op.execute("DELETE FROM persona_versions WHERE persona_id NOT IN (SELECT id FROM personas)")
    for slot in copies:
        _copy_slot(slot)
    _index_old_personas()


def _old_slots() -> list[dict[str, Any]]:
    """What each slot of before holds: what is set there, else an entry of the library that is set nowhere."""
    rows = op.get_bind().execute(sa.text(
        "SELECT p.id, p.guild_id, p.owner_id, p.active_version, a.level, a.place_id, a.user_id FROM personas p "
        "LEFT JOIN persona_assignments a ON a.persona_id = p.id "
        "ORDER BY a.id IS NULL, p.updated_at DESC, p.id DESC, a.id"
    )).mappings()  # fmt: skip
    slots: dict[tuple[object, ...], dict[str, Any]] = {}
    for row in rows:
        level = row["level"] or ("guild" if row["owner_id"] is None else "member")
        if level in ("category", "thread"):
            continue
        channel_id = row["place_id"] or 0
        slot = (row["guild_id"], level, channel_id, row["owner_id"])
        slots.setdefault(
            slot,
            {
                "id": row["id"],
                "guild_id": row["guild_id"],
                "level": level,
                "channel_id": channel_id,
                "user_id": row["owner_id"],
                "active_version": row["active_version"] if row["level"] else None,
            },
        )
    return list(slots.values())


def _alter_personas_back(kept: list[dict[str, Any]]) -> None:
    for name in COLUMNS:
        op.execute(f"ALTER TABLE personas DROP COLUMN {name}")
    op.execute("ALTER TABLE personas ALTER COLUMN active_version DROP NOT NULL")
    op.execute("ALTER TABLE personas RENAME COLUMN owner_id TO user_id")
    op.execute("ALTER TABLE personas RENAME CONSTRAINT fk_personas_owner_id_users TO fk_personas_user_id_users")
    _add_column("personas", "level", "TEXT", "guild, channel or member: the narrowest set one wins")
    _add_column("personas", "channel_id", "BIGINT DEFAULT 0 NOT NULL", "Channel that the persona is for, else 0")
    _execute_many(
        "UPDATE personas SET level = :level, channel_id = :channel_id, active_version = :active_version WHERE id = :id",
        kept,
    )
    op.execute("DELETE FROM personas WHERE level IS NULL")
    op.execute("ALTER TABLE personas ALTER COLUMN level SET NOT NULL")
    for name, condition in _OLD_CHECKS.items():
        op.create_check_constraint(f"ck_personas_{name}", "personas", condition)
    op.execute("COMMENT ON COLUMN personas.user_id IS 'Member that the persona is for, else NULL'")
    op.execute("COMMENT ON COLUMN personas.active_version IS 'Version in force; NULL after clear'")
    op.execute(f"COMMENT ON TABLE personas IS '{OLD_TABLE_COMMENT}'")


def _old_personas(name: str) -> None:
    op.create_table(
        name,
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
        *(sa.CheckConstraint(condition, name=f"ck_personas_{name}") for name, condition in _OLD_CHECKS.items()),
        sa.ForeignKeyConstraint(["guild_id"], ["guilds.id"], name="fk_personas_guild_id_guilds", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name="fk_personas_user_id_users", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_personas"),
        comment=OLD_TABLE_COMMENT,
        sqlite_autoincrement=True,
    )


def _copy_slot(slot: dict[str, Any]) -> None:
    """An entry that is set in several places has several slots, each with all its versions."""
    connection = op.get_bind()
    copied = connection.execute(
        sa.text(
            "INSERT INTO personas (guild_id, level, channel_id, user_id, active_version) "
            "VALUES (:guild_id, :level, :channel_id, :user_id, :active_version) RETURNING id"
        ),
        {name: value for name, value in slot.items() if name != "id"},
    ).scalar_one()
    connection.execute(
        sa.text(
            "INSERT INTO persona_versions (persona_id, version, name, prompt, author_id, created_at) "
            "SELECT :copied, version, name, prompt, author_id, created_at FROM persona_versions WHERE persona_id = :id"
        ),
        {"copied": copied, "id": slot["id"]},
    )


def _index_old_personas() -> None:
    op.create_index("ix_personas_user_id", "personas", ["user_id"])
    for level, columns in (("guild", []), ("channel", ["channel_id"]), ("member", ["user_id"])):
        condition = sa.text(f"level = '{level}'")
        op.create_index(
            f"uq_personas_{level}",
            "personas",
            ["guild_id", *columns],
            unique=True,
            sqlite_where=condition,
            postgresql_where=condition,
        )


_OLD_CHECKS = {
    "channel": "(level = 'channel') = (channel_id <> 0)",
    "member": "(level = 'member') = (user_id IS NOT NULL)",
    "level": "level IN ('guild', 'channel', 'member')",
}
_CHECK = f", \n\tCONSTRAINT ck_guild_settings_own_personas CHECK (own_personas IN ({WHO}))"


def _is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _add_column(table: str, name: str, definition: str, comment: str) -> None:
    """Add a column with its comment. SQLite keeps the text of the column, comment included."""
    if _is_sqlite():
        op.execute(f"ALTER TABLE {table} ADD COLUMN {name} {definition} /* {comment} */")
    else:
        op.execute(f"ALTER TABLE {table} ADD COLUMN {name} {definition}")
        op.execute(f"COMMENT ON COLUMN {table}.{name} IS '{comment}'")


def _insert(table: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        names = ", ".join(rows[0])
        values = ", ".join(f":{name}" for name in rows[0])
        _execute_many(f"INSERT INTO {table} ({names}) VALUES ({values})", rows)  # noqa: S608 - names of this file


def _execute_many(statement: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        op.get_bind().execute(sa.text(statement), rows)


def _rebuild(table: str, change: Callable[[str], str], values: dict[str, str]) -> None:
    """Give a table of SQLite another definition: its own text, changed, so that the comments stay.

    `values`: what columns contain afterwards, as SQL.
    """
    connection = op.get_bind()
    text = connection.scalar(
        sa.text("SELECT sql FROM sqlite_master WHERE tbl_name = :table AND type = 'table'"), {"table": table}
    )
    columns = [row.name for row in connection.execute(sa.text(f"SELECT name FROM pragma_table_info('{table}')"))]  # noqa: S608
    body, _, _ = str(text).partition("(")[2].rpartition(")")
    connection.exec_driver_sql(f"CREATE TABLE new_{table} ({change(body)})")
    selected = ", ".join(values.get(name, name) for name in columns)
    connection.exec_driver_sql(f"INSERT INTO new_{table} ({', '.join(columns)}) SELECT {selected} FROM {table}")  # noqa: S608
    op.drop_table(table)
    op.rename_table(f"new_{table}", table)


def _replaced_column(text: str, name: str, definition: str) -> str:
    """The text of a table in which one column is defined otherwise."""
    lines = text.split("\n")
    [index] = [number for number, line in enumerate(lines) if line.strip().startswith(f"{name} ")]
    lines[index] = f"\t{name} {definition}, "
    return "\n".join(lines)


def _with_check(text: str) -> str:
    return text.rstrip() + _CHECK + "\n"
