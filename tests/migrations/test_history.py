"""The revisions as a chain (pytest-alembic's tests), and comments in the database.

One head; upgrade from nothing; every step down and up again; the migrated schema equals the models.
"""

from __future__ import annotations

from pytest_alembic import tests
from pytest_alembic.runner import MigrationContext
from sqlalchemy import inspect, text

from models.engines import sync_engine
from models.migrate import upgrade
from models.sqlite.sqlite_comments import FORBIDDEN
from models.tables import Base
from models.urls import sync_url


def test_single_head(alembic_runner: MigrationContext) -> None:
    tests.test_single_head_revision(alembic_runner)


def test_upgrade(alembic_runner: MigrationContext) -> None:
    tests.test_upgrade(alembic_runner)


def test_each_step_down_and_up(alembic_runner: MigrationContext) -> None:
    tests.test_up_down_consistency(alembic_runner)


def test_models_equal_the_ddl(alembic_runner: MigrationContext) -> None:
    tests.test_model_definitions_match_ddl(alembic_runner)


def test_history_is_linear(alembic_runner: MigrationContext) -> None:
    revisions = alembic_runner.history.revisions
    assert revisions == ["base", *sorted(revisions[1:-1]), "heads"]


def test_every_table_and_column_has_its_comment_in_the_database(empty_url: str) -> None:
    upgrade(empty_url)
    engine = sync_engine(sync_url(empty_url), writer=False)
    with engine.connect() as connection:
        found = inspect(connection)
        for table in Base.metadata.sorted_tables:
            wanted = [table.comment, *(column.comment for column in table.columns)]
            assert all(wanted), f"{table.name} lacks a comment"
            if engine.dialect.name == "sqlite":
                sql = connection.execute(
                    text("SELECT sql FROM sqlite_master WHERE name = :name"), {"name": table.name}
                ).scalar_one()
                assert all(f"/* {comment} */" in sql for comment in wanted)
            else:
                assert found.get_table_comment(table.name)["text"] == table.comment
                stored = {column["name"]: column["comment"] for column in found.get_columns(table.name)}
                assert stored == {column.name: column.comment for column in table.columns}
    engine.dispose()


def test_no_comment_contains_a_forbidden_word() -> None:
    for table in Base.metadata.sorted_tables:
        for comment in (table.comment, *(column.comment for column in table.columns)):
            assert comment
            assert "\n" not in comment
            assert not [word for word in FORBIDDEN if word in comment.lower()], f"{table.name}: {comment}"
