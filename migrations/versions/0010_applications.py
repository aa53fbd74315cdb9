"""Make the Discord application a part of every tenant's key, so that several bots may share a database.

Revision: 0010, after 0009
"""

import re
from collections.abc import Callable
from functools import partial

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)
COLUMN = "application_id"
COMMENT = "Application whose bot it belongs to; 0 is the terminal"
INTERACTION = ("interaction_application_id", "Application of the interaction; NULL for a reply to a message")

# Tables with the new column, parents first, and the key that it is added to, if it is part of that.
KEYS = {
    "guilds": ("id",),
    "users": ("id",),
    "opt_outs": ("user_id",),
    "processed_interactions": ("interaction_id",),
    "processes": (),
    "stop_requests": ("interaction_id", "user_id"),
    "audit_log": (),
    "bound_threads": ("thread_id",),
    "channel_scopes": ("guild_id", "channel_id"),
    "daily_usage": ("guild_id", "user_id", "day"),
    "dialogs": (),
    "facts": (),
    "guild_channels": ("guild_id", "channel_id"),
    "guild_profiles": ("guild_id",),
    "guild_roles": ("guild_id", "role_id"),
    "guild_settings": ("guild_id",),
    "locked_channels": ("guild_id", "channel_id"),
    "member_settings": ("guild_id", "user_id"),
    "personas": (),
    "scenes": ("guild_id", "place_id"),
    "persona_assignments": (),
    "scene_characters": ("guild_id", "place_id", "persona_id"),
    "turns": (),
    "deliveries": (),
}
# Foreign keys to a row that has the new column in its key: column, table. They go with that row.
REFERENCES = {
    "audit_log": [("guild_id", "guilds")],
    "bound_threads": [("guild_id", "guilds")],
    "channel_scopes": [("guild_id", "guilds")],
    "daily_usage": [("guild_id", "guilds"), ("user_id", "users")],
    "dialogs": [("guild_id", "guilds"), ("user_id", "users")],
    "facts": [("guild_id", "guilds"), ("user_id", "users")],
    "guild_channels": [("guild_id", "guilds")],
    "guild_profiles": [("guild_id", "guilds")],
    "guild_roles": [("guild_id", "guilds")],
    "guild_settings": [("guild_id", "guilds")],
    "locked_channels": [("guild_id", "guilds")],
    "member_settings": [("guild_id", "guilds"), ("user_id", "users")],
    "personas": [("guild_id", "guilds"), ("owner_id", "users")],
    "scenes": [("guild_id", "guilds")],
    "persona_assignments": [("guild_id", "guilds"), ("user_id", "users")],
    "scene_characters": [("guild_id,place_id", "scenes")],
    "turns": [("author_id", "users")],
}
# Foreign keys that set their column to NULL. With the application in them they would clear that too, so a deletion of a
# person clears these columns by itself.
CLEARED = {
    "audit_log": ["actor_id", "target_id"],
    "bound_threads": ["creator_id"],
    "persona_assignments": ["set_by"],
    "persona_versions": ["author_id"],
}
COMMENTS = {
    ("guilds", None): ("Guilds the bot has talked in; 0 stands for direct messages",
                       "Guilds a bot has talked in; 0 stands for direct messages"),
    ("users", None): ("People the bot has talked with", "People a bot has talked with"),
    ("bound_threads", "creator_id"): ("Who asked for it", "Who asked for it; NULL once that person was deleted"),
    ("audit_log", "target_id"): ("Whom it was done to", "Whom it was done to; NULL once that person was deleted"),
    ("member_settings", None): ("What a member chose for this guild, and whether an admin has blocked them",
                                "What a member chose for this guild"),
    ("dialogs", "end_reason"): ("reset, idle or removed", "Why it ended, such as reset or idle"),
}  # fmt: skip
# Indexes: table, name, columns before and after, unique, condition on both databases.
INDEXES = [
    ("guilds", "ix_guilds_removed_at", "removed_at", "application_id removed_at", False, "removed_at IS NOT NULL"),
    ("bound_threads", "ix_bound_threads_guild_id", "guild_id", "guild_id application_id", False, None),
    ("bound_threads", "ix_bound_threads_creator_id", "creator_id", "creator_id application_id", False, None),
    ("member_settings", "ix_member_settings_user_id", "user_id", "user_id application_id", False, None),
    ("member_settings", "ix_member_settings_memory", "guild_id user_id", "application_id guild_id user_id", False,
     "memory IS TRUE"),
    ("member_settings", "ix_member_settings_retention", "retention_days", "application_id retention_days", False,
     "retention_days IS NOT NULL"),
    ("daily_usage", "ix_daily_usage_user_id", "user_id", "user_id application_id", False, None),
    ("daily_usage", "ix_daily_usage_day", "day", "day application_id", False, None),
    ("audit_log", "ix_audit_log_guild_id", "guild_id id", "guild_id application_id id", False, None),
    ("audit_log", "ix_audit_log_actor_id", "actor_id", "actor_id application_id", False, None),
    ("audit_log", "ix_audit_log_target_id", "target_id", "target_id application_id", False, None),
    ("processed_interactions", "ix_processed_interactions_at", "processed_at", "processed_at application_id", False,
     None),
    ("processes", "ix_processes_alive_until", "alive_until", "alive_until application_id", False, None),
    ("stop_requests", "ix_stop_requests_at", "requested_at", "requested_at application_id", False, None),
    ("facts", "ix_facts_member", "guild_id user_id", "guild_id user_id application_id", False, None),
    ("facts", "ix_facts_user_id", "user_id", "user_id application_id", False, None),
    ("facts", "ix_facts_last_used_at", "last_used_at", "last_used_at application_id", False, None),
    ("deliveries", "ix_deliveries_unfinished", "created_at", "application_id created_at", False, "state <> 'done'"),
    ("dialogs", "uq_dialogs_open", "guild_id user_id channel_id", "guild_id user_id channel_id application_id", True,
     "ended_at IS NULL AND parked_at IS NULL"),
    ("dialogs", "ix_dialogs_idle", "last_active_at", "application_id last_active_at", False, "ended_at IS NULL"),
    ("dialogs", "ix_dialogs_ended", "ended_at", "application_id ended_at", False, "ended_at IS NOT NULL"),
    ("dialogs", "ix_dialogs_member", "guild_id user_id", "guild_id user_id application_id", False, None),
    ("dialogs", "ix_dialogs_user_id", "user_id", "user_id application_id", False, None),
    ("turns", "ix_turns_author_id", "author_id", "author_id application_id", False, None),
    ("turns", "ix_turns_pending", "created_at", "application_id created_at", False, "status = 'pending'"),
    ("personas", "uq_personas_guild", "guild_id name_key", "guild_id name_key application_id", True,
     "owner_id IS NULL"),
    ("personas", "uq_personas_member", "guild_id owner_id name_key", "guild_id owner_id name_key application_id", True,
     "owner_id IS NOT NULL"),
    ("personas", "ix_personas_guild_id", "guild_id", "guild_id application_id", False, None),
    ("personas", "ix_personas_owner_id", "owner_id", "owner_id application_id", False, None),
    ("persona_assignments", "uq_persona_assignments_place", "guild_id place_id", "guild_id place_id application_id",
     True, "user_id IS NULL"),
    ("persona_assignments", "uq_persona_assignments_member", "guild_id user_id", "guild_id user_id application_id",
     True, "user_id IS NOT NULL"),
    ("persona_assignments", "ix_persona_assignments_guild_id", "guild_id", "guild_id application_id", False, None),
    ("persona_assignments", "ix_persona_assignments_user_id", "user_id", "user_id application_id", False, None),
    ("persona_assignments", "ix_persona_assignments_set_by", "set_by", "set_by application_id", False, None),
]  # fmt: skip
UNIQUE = {"turns": ("uq_turns_interaction_id", ["interaction_id"], "uq_turns_interaction_id_application_id")}


def upgrade() -> None:
    """Give every row to the application that the database belongs to, or, if it is not known, to the first to start."""
    owner = int(op.get_bind().scalar(sa.text("SELECT application_id FROM discord_application")) or 0)
    _drop_indexes()
    _rename_column("deliveries", COLUMN, INTERACTION[0], INTERACTION[1])
    (_upgrade_sqlite if _is_sqlite() else _upgrade_postgres)(owner)
    _create_indexes(old=False)
    since = op.get_bind().scalar(sa.text("SELECT since FROM discord_application"))
    op.drop_table("discord_application")
    op.create_table(
        "discord_application",
        sa.Column(
            COLUMN, sa.BigInteger(), autoincrement=False, nullable=False, comment="Application whose bot uses it"
        ),
        sa.Column("since", TIME, nullable=False, comment="When that bot was first started with it"),
        sa.Column(
            "given_up_at",
            TIME,
            nullable=True,
            comment="When the operator gave its rows to the next application that is new here",
        ),
        sa.PrimaryKeyConstraint(COLUMN, name="pk_discord_application"),
        comment="The Discord applications whose bots use this database",
    )
    if owner:
        added = sa.text("INSERT INTO discord_application (application_id, since) VALUES (:id, :since)")
        op.get_bind().execute(added, {"id": owner, "since": since})


def downgrade() -> None:
    """Keep the rows of the application that was started first, or of the terminal if none was. Others' are lost."""
    first = sa.text("SELECT application_id, since FROM discord_application ORDER BY since LIMIT 1")
    row = op.get_bind().execute(first).first()
    owner = 0 if row is None else int(row[0])
    _delete_others(owner)
    _drop_indexes()
    (_downgrade_sqlite if _is_sqlite() else _downgrade_postgres)()
    _rename_column("deliveries", INTERACTION[0], COLUMN, "Application of the interaction")
    _create_indexes(old=True)
    op.drop_table("discord_application")
    op.create_table(
        "discord_application",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False, comment="Always 1"),
        sa.Column(COLUMN, sa.BigInteger(), nullable=False, comment="Application whose bot uses it"),
        sa.Column("since", TIME, nullable=False, comment="When that bot was first started with it"),
        sa.CheckConstraint("id = 1", name="ck_discord_application_one_row"),
        sa.PrimaryKeyConstraint("id", name="pk_discord_application"),
        comment="The Discord application that this database belongs to",
    )
    if row is not None:
        added = sa.text("INSERT INTO discord_application (id, application_id, since) VALUES (1, :id, :since)")
        op.get_bind().execute(added, {"id": owner, "since": row[1]})


def _delete_others(owner: int) -> None:
    """Delete the rows of other applications, children first; SQLite deletes no children by itself here."""
    theirs = sa.column(COLUMN, sa.BigInteger()) != owner
    parts = {
        "delivery_messages": ("delivery_id", "deliveries"),
        "turn_files": ("turn_id", "turns"),
        "turn_prompts": ("turn_id", "turns"),
        "reply_variants": ("turn_id", "turns"),
        "dialog_summaries": ("dialog_id", "dialogs"),
        "memory_work": ("dialog_id", "dialogs"),
        "persona_versions": ("persona_id", "personas"),
        "persona_pictures": ("persona_id", "personas"),
    }
    for table, (column, parent) in parts.items():
        ids: sa.Select[int] = sa.select(sa.column("id", sa.BigInteger)).select_from(sa.table(parent)).where(theirs)
        op.execute(sa.delete(sa.table(table)).where(sa.column(column).in_(ids)))
    for table in reversed(KEYS):
        op.execute(sa.delete(sa.table(table)).where(theirs))


def _is_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _drop_indexes() -> None:
    for table, name, *_ in INDEXES:
        op.drop_index(name, table)


def _create_indexes(*, old: bool) -> None:
    for table, name, before, after, unique, condition in INDEXES:
        where = None if condition is None else sa.text(condition)
        sqlite_where = sa.text(condition.replace("IS TRUE", "IS 1")) if condition else None
        columns = (before if old else after).split()
        op.create_index(name, table, columns, unique=unique, sqlite_where=sqlite_where, postgresql_where=where)


def _rename_column(table: str, old: str, new: str, comment: str) -> None:
    if _is_sqlite():
        _rebuild(table, lambda text: _set_comment(re.sub(rf"\b{old}\b", new, text), new, comment), {new: old})
    else:
        op.alter_column(table, old, new_column_name=new, comment=comment, existing_type=sa.BigInteger())


def _foreign_key(table: str, columns: list[str], parent: str) -> tuple[str, str]:
    """Return the name and the text of a foreign key."""
    referred = ["id" if parent in ("guilds", "users") and each != COLUMN else each for each in columns]
    name = f"fk_{table}_{'_'.join(columns)}_{parent}"
    text = f"FOREIGN KEY({', '.join(columns)}) REFERENCES {parent} ({', '.join(referred)}) ON DELETE CASCADE"
    return name, f"CONSTRAINT {name} {text}"


def _old_name(table: str, columns: str, parent: str) -> str:
    return f"fk_{table}_{columns.split(',')[0]}_{parent}"


# ── Postgres ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _upgrade_postgres(owner: int) -> None:
    for table, references in REFERENCES.items():
        for columns, parent in references:
            op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {_old_name(table, columns, parent)}")
    for table, cleared in CLEARED.items():
        for column in cleared:
            op.execute(f"ALTER TABLE {table} DROP CONSTRAINT fk_{table}_{column}_users")
    for table, key in KEYS.items():
        op.execute(f"ALTER TABLE {table} ADD COLUMN {COLUMN} BIGINT NOT NULL DEFAULT {owner}")
        op.execute(f"ALTER TABLE {table} ALTER COLUMN {COLUMN} SET DEFAULT '0'")
        op.execute(f"COMMENT ON COLUMN {table}.{COLUMN} IS '{COMMENT}'")
        if key:
            op.execute(f"ALTER TABLE {table} DROP CONSTRAINT pk_{table}")
            op.execute(f"ALTER TABLE {table} ADD CONSTRAINT pk_{table} PRIMARY KEY ({', '.join((*key, COLUMN))})")
    for table, (name, unique, new_name) in UNIQUE.items():
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        op.create_unique_constraint(new_name, table, [*unique, COLUMN])
    for table, references in REFERENCES.items():
        for columns, parent in references:
            op.execute(f"ALTER TABLE {table} ADD {_foreign_key(table, [*columns.split(','), COLUMN], parent)[1]}")
    _comment_postgres(new=True)


def _downgrade_postgres() -> None:
    for table, references in REFERENCES.items():
        for columns, parent in references:
            name, _ = _foreign_key(table, [*columns.split(","), COLUMN], parent)
            op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    for table, (name, unique, new_name) in UNIQUE.items():
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {new_name}")
        op.create_unique_constraint(name, table, unique)
    for table, key in KEYS.items():
        if key:
            op.execute(f"ALTER TABLE {table} DROP CONSTRAINT pk_{table}")
            op.execute(f"ALTER TABLE {table} ADD CONSTRAINT pk_{table} PRIMARY KEY ({', '.join(key)})")
        op.execute(f"ALTER TABLE {table} DROP COLUMN {COLUMN}")
    for table, references in REFERENCES.items():
        for columns, parent in references:
            _, text = _foreign_key(table, columns.split(","), parent)
            name = _old_name(table, columns, parent)
            op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} {text.split(' ', 2)[2]}")
    for table, cleared in CLEARED.items():
        for column in cleared:
            op.execute(f"ALTER TABLE {table} ADD {_clearing_key(table, column)}")
    _comment_postgres(new=False)


def _clearing_key(table: str, column: str) -> str:
    return f"CONSTRAINT fk_{table}_{column}_users FOREIGN KEY({column}) REFERENCES users (id) ON DELETE SET NULL"


def _comment_postgres(*, new: bool) -> None:
    for (table, column), comments in COMMENTS.items():
        place = f"TABLE {table}" if column is None else f"COLUMN {table}.{column}"
        op.execute(f"COMMENT ON {place} IS '{comments[new]}'")


# ── SQLite: a constraint is changed by copying the table; its own text keeps the rest as it is ──────────────────────


def _upgrade_sqlite(owner: int) -> None:
    for table in [*KEYS, "persona_versions"]:
        _rebuild(table, partial(_with_application, table), {COLUMN: str(owner)})


def _downgrade_sqlite() -> None:
    for table in [*KEYS, "persona_versions"]:
        _rebuild(table, partial(_without_application, table), {})


def _with_application(table: str, text: str) -> str:
    if table in KEYS:
        text = _add_column(text, f"{COLUMN} BIGINT DEFAULT '0' NOT NULL /* {COMMENT} */")
        if KEYS[table]:
            text = _replace_constraint(text, f"pk_{table}", f"PRIMARY KEY ({', '.join((*KEYS[table], COLUMN))})")
    for columns, parent in REFERENCES.get(table, ()):
        _, constraint = _foreign_key(table, [*columns.split(","), COLUMN], parent)
        text = _replace_constraint(text, _old_name(table, columns, parent), constraint.split(" ", 2)[2], constraint)
    for column in CLEARED.get(table, ()):
        text = _replace_constraint(text, f"fk_{table}_{column}_users", None)
    if table in UNIQUE:
        name, unique, new_name = UNIQUE[table]
        new = f"CONSTRAINT {new_name} UNIQUE ({', '.join((*unique, COLUMN))})"
        text = _replace_constraint(text, name, "", new)
    return _comment_sqlite(table, text, new=True)


def _without_application(table: str, text: str) -> str:
    if table in KEYS:
        if KEYS[table]:
            text = _replace_constraint(text, f"pk_{table}", f"PRIMARY KEY ({', '.join(KEYS[table])})")
        text, count = re.subn(rf",?\s*{COLUMN} BIGINT DEFAULT '0' NOT NULL /\* {re.escape(COMMENT)} \*/", "", text)
        if count != 1:
            raise AssertionError(f"the column of {table} is not where it was put")
    for columns, parent in REFERENCES.get(table, ()):
        name, _ = _foreign_key(table, [*columns.split(","), COLUMN], parent)
        _, old = _foreign_key(table, columns.split(","), parent)
        old = f"CONSTRAINT {_old_name(table, columns, parent)} {old.split(' ', 2)[2]}"
        text = _replace_constraint(text, name, "", old)
    for column in CLEARED.get(table, ()):
        text = f"{text.rstrip()}, \n\t{_clearing_key(table, column)}\n"
    if table in UNIQUE:
        name, unique, new_name = UNIQUE[table]
        text = _replace_constraint(text, new_name, "", f"CONSTRAINT {name} UNIQUE ({', '.join(unique)})")
    return _comment_sqlite(table, text, new=False)


def _add_column(text: str, column: str) -> str:
    """Put a column after the last one, before the constraints of the table."""
    # A table that a downgrade of earlier revisions has rebuilt has a primary key without a name.
    place = re.search(r",\s*(?:CONSTRAINT \w+ )?(?:PRIMARY KEY|FOREIGN KEY|CHECK|UNIQUE)\b", text)
    if place is None:
        raise AssertionError("the table has no constraint")
    return f"{text[: place.start()]}, \n\t{column}{text[place.start() :]}"


def _replace_constraint(text: str, name: str, definition: str | None, whole: str | None = None) -> str:
    """Replace a constraint of the table, found by its name; None: remove it. `whole`: with another name."""
    pattern = (
        rf",\s*CONSTRAINT {name} (?:PRIMARY KEY|UNIQUE|FOREIGN KEY)\s*\([^)]*\)"
        r"(?:\s*REFERENCES \w+\s*\([^)]*\)(?:\s*ON DELETE (?:CASCADE|SET NULL))?)?"
    )
    new = "" if definition is None else f", \n\t{whole or f'CONSTRAINT {name} {definition}'}"
    text, count = re.subn(pattern, lambda _: new, text)
    if count != 1:
        raise AssertionError(f"the constraint {name} was found {count} times")
    return text


def _comment_sqlite(table: str, text: str, *, new: bool) -> str:
    for (commented, column), (before, after) in COMMENTS.items():
        if commented == table:
            old, comment = (before, after) if new else (after, before)
            text = (
                text.replace(f"/* {old} */", f"/* {comment} */", 1)
                if column is None
                else (_set_comment(text, column, comment))
            )
    return text


def _set_comment(text: str, column: str, comment: str) -> str:
    """Replace the comment of a column. A table that a downgrade of earlier revisions has rebuilt has none."""
    text, count = re.subn(rf"(\b{column} [A-Z][^,/]*)/\* [^*]* \*/", lambda found: f"{found[1]}/* {comment} */", text)
    if count > 1:
        raise AssertionError(f"the comment of {column} was found {count} times")
    return text


def _rebuild(table: str, change: Callable[[str], str], values: dict[str, str]) -> None:
    """Copy a table into one whose text `change` has changed. `values`: new columns, as SQL on the old one."""
    connection = op.get_bind()
    schema = sa.text("SELECT sql FROM sqlite_master WHERE tbl_name = :table AND type = :type AND sql IS NOT NULL")
    (text,) = connection.scalars(schema, {"table": table, "type": "table"})
    indexes = connection.scalars(schema, {"table": table, "type": "index"}).all()
    body = text.partition("(")[2].rpartition(")")[0]
    connection.exec_driver_sql(f"CREATE TABLE new_{table} ({change(body)})")
    names = [row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info(new_{table})")]
    copy = sa.table(f"new_{table}", *map(sa.column, names))
    taken: list[sa.ColumnClause[object]] = [sa.literal_column(values.get(name, name)) for name in names]
    op.execute(copy.insert().from_select(names, sa.select(*taken).select_from(sa.table(table))))
    if "AUTOINCREMENT" in text.upper():  # the ids of deleted rows are not used again
        last_ids = sa.table("sqlite_sequence", sa.column("name"))
        op.execute(last_ids.delete().where(last_ids.c.name == copy.name))
        op.execute(last_ids.update().where(last_ids.c.name == table).values(name=copy.name))
    op.drop_table(table)
    op.rename_table(f"new_{table}", table)
    for index in indexes:
        connection.exec_driver_sql(index)
