"""Statements that name no application are refused, before they run."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import delete, exists, func, select, text, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import aliased

from models.application import ours
from models.statement_guard import GUARD, PARTS, SHARED_BY_ALL, StatementRefused
from models.tables import Base, BoundThread, Dialog, Fact, Guild, Turn
from tests.models.application_kit import FIRST, bots


class TestGuard:
    def refuses(self, statement: Any) -> bool:
        refused = set()
        for dialect in (sqlite.dialect(), postgresql.dialect()):
            try:
                GUARD.check(str(statement.compile(dialect=dialect)))
                refused.add(False)
            except StatementRefused:
                refused.add(True)
        [answer] = refused
        return answer

    def test_a_statement_without_the_application_is_refused(self) -> None:
        for table in Base.metadata.sorted_tables:
            if table.name in SHARED_BY_ALL:
                continue
            column = next(iter(table.c))
            statements = (select(column), table.delete(), select(func.count()).select_from(table))
            for statement in statements:
                assert self.refuses(statement), f"{statement}"
            if "application_id" in table.c:
                assert self.refuses(select(table.c.application_id)), table.name
                assert not self.refuses(select(column).where(table.c.application_id == 1)), table.name
            else:
                assert table.name in PARTS, f"{table.name} has neither an application nor a row that it is a part of"
                link = table.c[PARTS[table.name][0]]
                assert not self.refuses(select(column).where(link == 1)), table.name

    def test_each_place_counts(self) -> None:
        other = aliased(Dialog)
        mine = select(Dialog.id).where(ours(Dialog))
        assert not self.refuses(mine)
        assert self.refuses(mine.where(exists().where(other.id > Dialog.id)))
        assert not self.refuses(mine.where(exists().where(ours(other), other.id > Dialog.id)))
        assert self.refuses(mine.join(Guild, Guild.id == Dialog.guild_id))
        assert self.refuses(select(Fact.id).where(Fact.guild_id.in_(select(Guild.id)), ours(Fact)))
        assert self.refuses(select(Dialog.id, Guild.id).where(ours(Dialog)))
        found = select(Turn.id).where(Turn.id == 1).subquery()
        assert self.refuses(select(found.c.id, Dialog.id))
        assert not self.refuses(select(found.c.id, Dialog.id).where(ours(Dialog)))
        assert self.refuses(select(Turn.id).join(Dialog).where(Turn.id == 1))
        assert not self.refuses(select(Turn.id).join(Dialog).where(Turn.id == 1, ours(Dialog)))
        assert self.refuses(select(Dialog.id).where(ours(Dialog), Dialog.id.in_(select(Turn.dialog_id))))
        both = select(Turn.id).where(Turn.id == 1, Turn.author_id.in_(select(Turn.author_id)))
        assert self.refuses(both)

    def test_a_row_that_was_found_may_be_changed_by_its_id(self) -> None:
        assert not self.refuses(update(Dialog).where(Dialog.id == 1).values(name="x"))
        assert not self.refuses(delete(Dialog).where(Dialog.id.in_([1, 2])))
        assert self.refuses(update(Dialog).where(Dialog.guild_id == 1).values(name="x"))
        assert self.refuses(delete(BoundThread).where(BoundThread.thread_id == 1))  # a snowflake: others have it too
        assert self.refuses(select(Dialog.name).where(Dialog.id == 1))

    async def test_it_stands_before_every_statement_of_the_bot(self, database_url: str) -> None:
        async with bots(database_url, FIRST) as (database,):
            async with database.write() as session:
                with pytest.raises(StatementRefused):
                    await session.execute(update(Dialog).values(name="x"))
            async with database.read() as session:
                with pytest.raises(StatementRefused):
                    await session.execute(text("SELECT count(*) FROM turns"))
