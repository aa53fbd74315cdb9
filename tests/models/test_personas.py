"""Which persona answers where, the entries of libraries, and their versions."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from models import queries
from models.database import Database
from models.errors import PersonaLibraryFull, PersonaNameTaken
from models.queries.tenants.persona_changes import KEPT_VERSIONS
from models.queries.tenants.personas import name_key
from models.tables import TurnPrompt
from models.types import NO_PLACE, DialogKey, PersonaInfo, PersonaScope, StoredLevel, TurnResult

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
KEY = DialogKey(100, 7)
THREAD = PersonaScope(category_id=4, channel_id=5, thread_id=6)
PLACES: dict[StoredLevel, int] = {"guild": 0, "category": 4, "channel": 5, "thread": 6, "member": 0}


async def set_to(database: Database, key: DialogKey, level: StoredLevel, prompt: str, name: str = "") -> None:
    async with database.write() as session:
        await queries.set_persona(
            session,
            key=key,
            level=level,
            place_id=PLACES[level],
            name=name or f"of the {level}",
            prompt=prompt,
            author_id=7,
            now=NOW,
        )


async def effective(database: Database, key: DialogKey, scope: PersonaScope = THREAD) -> tuple[str, str] | None:
    async with database.read() as session:
        found = await queries.effective_persona(session, key=key, scope=scope)
    return None if found is None else (found.level, found.prompt)


async def create(database: Database, name: str, *, own: bool = False, limit: int = 100) -> PersonaInfo:
    async with database.write() as session:
        return await queries.create_persona(
            session, key=KEY, own=own, name=name, prompt="P", author_id=7, limit=limit, now=NOW
        )


class TestPrecedence:
    async def test_from_the_guild_to_the_member(self, database: Database) -> None:
        assert await effective(database, KEY) is None
        for level in PLACES:
            await set_to(database, KEY, level, f"the {level}'s")
            assert await effective(database, KEY) == (level, f"the {level}'s")
        other = DialogKey(100, 8)
        assert await effective(database, other) == ("thread", "the thread's")
        assert await effective(database, other, PersonaScope(4, 5)) == ("channel", "the channel's")
        assert await effective(database, other, PersonaScope(4, 50)) == ("category", "the category's")
        assert await effective(database, other, PersonaScope(40, 50, 60)) == ("guild", "the guild's")
        assert await effective(database, other, NO_PLACE) == ("guild", "the guild's")
        assert await effective(database, DialogKey(101, 7)) is None
        left = list(PLACES)
        while left:
            level = left.pop()
            async with database.write() as session:
                place = PLACES[level]
                assert await queries.clear_persona(session, key=KEY, level=level, place_id=place, now=NOW)
                assert not await queries.clear_persona(session, key=KEY, level=level, place_id=place, now=NOW)
            assert await effective(database, KEY) == ((left[-1], f"the {left[-1]}'s") if left else None)

    async def test_whose_dialog_it_is_does_not_matter(self, database: Database) -> None:
        await set_to(database, KEY, "channel", "the channel's")
        for key in (KEY, DialogKey(100, 7, 5), DialogKey(100, 7, 5, shared=True), DialogKey(100, 7, 6, shared=True)):
            assert await effective(database, key) == ("channel", "the channel's")
            async with database.write() as session:
                turn = await queries.begin_turn(session, key=key, text="hi", limit=1, persona_scope=THREAD, now=NOW)
            assert turn.persona is not None
            assert (turn.persona.level, turn.persona.prompt) == ("channel", "the channel's")

    async def test_a_members_own_answers_only_where_it_may(self, database: Database) -> None:
        await set_to(database, KEY, "member", "mine")
        await set_to(database, KEY, "guild", "the guild's")
        assert await effective(database, KEY) == ("member", "mine")
        assert await effective(database, replace(KEY, channel_id=5, shared=True)) == ("guild", "the guild's")
        barred = replace(THREAD, own_allowed=False)
        assert await effective(database, KEY, barred) == ("guild", "the guild's")
        async with database.read() as session:
            levels = await queries.persona_levels(session, key=KEY, scope=barred)
        assert [(each.level, each.name) for each in levels] == [
            ("member", "of the member"), ("guild", "of the guild"),
        ]  # fmt: skip

    async def test_one_entry_answers_in_many_places(self, database: Database) -> None:
        entry = await create(database, "Jack")
        for level in ("guild", "channel", "thread"):
            async with database.write() as session:
                assert await queries.assign_persona(
                    session,
                    key=KEY,
                    level=level,
                    place_id=PLACES[level],
                    persona_id=entry.persona_id,
                    set_by=7,
                    now=NOW,
                )
        async with database.read() as session:
            places = await queries.assignments_of(session, key=KEY, own=False, persona_ids=[entry.persona_id])
        assert [(each.level, each.place_id) for each in places[entry.persona_id]] == [
            ("guild", 0),
            ("channel", 5),
            ("thread", 6),
        ]
        async with database.write() as session:
            assert await queries.delete_persona(session, key=KEY, own=False, persona_id=entry.persona_id)
        assert await effective(database, KEY) is None

    async def test_a_place_has_one_persona(self, database: Database) -> None:
        for name in ("one", "two"):
            await set_to(database, KEY, "channel", name, name=name)
            assert await effective(database, KEY) == ("channel", name)
        async with database.read() as session:
            names = [each.name for each in await queries.personas_of(session, key=KEY, own=False, limit=9)]
        assert names == ["one", "two"]


class TestLibraries:
    async def test_names_are_one_a_library(self, database: Database) -> None:
        await create(database, "Jack")
        for name in ("JACK", "j\u200back", "\uff2aack", " jack "):
            with pytest.raises(PersonaNameTaken):
                await create(database, name)
        own = await create(database, "Jack", own=True)
        async with database.read() as session:
            found = await queries.find_persona(session, key=KEY, own=True, name="jaCK")
            assert found == own
            assert await queries.find_persona(session, key=DialogKey(100, 8), own=True, name="Jack") is None
            assert await queries.find_persona(session, key=DialogKey(101, 7), own=False, name="Jack") is None

    async def test_a_library_is_bounded_also_for_many_at_once(self, database: Database) -> None:
        made = await asyncio.gather(*(create(database, f"n{number}", limit=3) for number in range(6)),
                                    return_exceptions=True)  # fmt: skip
        assert len([each for each in made if isinstance(each, PersonaInfo)]) == 3
        assert len([each for each in made if isinstance(each, PersonaLibraryFull)]) == 3

    async def test_pages_and_tags(self, database: Database) -> None:
        for number in range(5):
            entry = await create(database, f"Name {number}")
            async with database.write() as session:
                tags = ("Even",) if number % 2 == 0 else ()
                await queries.tag_persona(session, key=KEY, own=False, persona_id=entry.persona_id, tags=tags, now=NOW)
        async with database.read() as session:
            first = await queries.personas_of(session, key=KEY, own=False, limit=3)
            rest = await queries.personas_of(session, key=KEY, own=False, limit=3, after=first[-1].persona_id)
            back = await queries.personas_of(session, key=KEY, own=False, limit=2, before=rest[0].persona_id)
            names = [[each.name for each in page] for page in (first, rest)]
            assert back == first[1:]
            even = await queries.personas_of(session, key=KEY, own=False, tag="EVEN", limit=9)
        assert names == [["Name 0", "Name 1", "Name 2"], ["Name 3", "Name 4"]]
        assert [each.name for each in even] == ["Name 0", "Name 2", "Name 4"]

    async def test_renamed(self, database: Database) -> None:
        jack, rose = await create(database, "Jack"), await create(database, "Rose")
        async with database.write() as session:
            with pytest.raises(PersonaNameTaken):
                await queries.rename_persona(
                    session, key=KEY, own=False, persona_id=rose.persona_id, name="jack", now=NOW
                )
        async with database.write() as session:
            renamed = await queries.rename_persona(
                session, key=KEY, own=False, persona_id=jack.persona_id, name="JACK", now=NOW
            )
        assert renamed is not None
        assert renamed.name == "JACK"

    async def test_attack_a_page_beside_a_foreign_entry_tells_nothing_of_its_name(self, database: Database) -> None:
        async with database.write() as session:
            made = {"prompt": "x", "author_id": None, "limit": 9, "now": NOW}
            foreign = [
                await queries.create_persona(session, key=DialogKey(KEY.guild_id + 1, 7), own=False, name="m", **made),
                await queries.create_persona(session, key=KEY, own=True, name="m", **made),
            ]
            for name in ("a", "z"):
                await queries.create_persona(session, key=KEY, own=False, name=name, **made)
            for each in foreign:
                for side in ("after", "before"):
                    at = {side: each.persona_id}
                    assert await queries.personas_of(session, key=KEY, own=False, limit=9, **at) == ()

    @pytest.mark.parametrize("name", ["\N{FAMILY}" * 32, "\u200d\u200b", "@everyone", "İ", "ß", "ﬃ"])
    def test_keys_are_stable(self, name: str) -> None:
        assert name_key(name_key(name)) == name_key(name)


class TestVersions:
    async def test_rollback_also_after_a_clear(self, database: Database) -> None:
        for prompt in ("one", "two", "three"):
            await set_to(database, KEY, "guild", prompt)
        async with database.write() as session:
            await queries.clear_persona(session, key=KEY, level="guild", now=NOW)
            entry = await queries.latest_persona(session, key=KEY, own=False)
            assert entry is not None
            at = {"key": KEY, "own": False, "persona_id": entry.persona_id}
            assert await queries.rollback_persona(session, **at, version=9, now=NOW) is None
            back = await queries.rollback_persona(session, **at, version=2, now=NOW)
            assert back is not None
            assert back.active_version == 2
            versions = await queries.persona_versions(session, **at)
        assert [(one.version, one.prompt, one.active) for one in versions] == [
            (3, "three", False), (2, "two", True), (1, "one", False),
        ]  # fmt: skip
        await set_to(database, KEY, "guild", "four")
        assert await effective(database, KEY) == ("guild", "four")

    async def test_without_a_name_the_one_that_is_set_changes(self, database: Database) -> None:
        await set_to(database, KEY, "guild", "a pirate", name="Jack")
        async with database.write() as session:
            changed = await queries.set_persona(
                session, key=KEY, level="guild", name="", prompt="a nun", author_id=7, now=NOW
            )
        assert (changed.name, changed.version) == ("Jack", 2)

    async def test_without_a_name_nothing_changes_that_answers_elsewhere(self, database: Database) -> None:
        unnamed = {"key": KEY, "name": "", "author_id": 7, "now": NOW}
        async with database.write() as session:
            await queries.set_persona(session, **unnamed, level="guild", prompt="the guild's")
            await queries.set_persona(session, **unnamed, level="channel", place_id=5, prompt="the channel's")
            await queries.set_persona(session, **unnamed, level="thread", place_id=6, prompt="the thread's")
            await queries.clear_persona(session, key=KEY, level="channel", place_id=5, now=NOW)
            await queries.set_persona(session, **unnamed, level="category", place_id=4, prompt="the category's")
            names = [each.name for each in await queries.personas_of(session, key=KEY, own=False, limit=9)]
        assert names == ["Persona", "Persona 2", "Persona 3"]
        assert await effective(database, KEY, NO_PLACE) == ("guild", "the guild's")
        assert await effective(database, KEY, PersonaScope(thread_id=6)) == ("thread", "the thread's")
        assert await effective(database, KEY, PersonaScope(category_id=4)) == ("category", "the category's")

    async def test_another_text_keeps_the_card(self, database: Database) -> None:
        async with database.write() as session:
            entry = await queries.create_persona(
                session, key=KEY, own=False, name="Jack", prompt="P", card="{}", author_id=7, limit=9, now=NOW
            )
            at = {"key": KEY, "own": False, "persona_id": entry.persona_id}
            change = {"prompt": "Q", "author_id": 7, "now": NOW}
            await queries.edit_persona(session, **at, **change)
            await queries.edit_persona(session, **at, **change, card="{1}")
            versions = await queries.persona_versions(session, **at)
        assert [each.card for each in versions] == ["{1}", "{}", "{}"]

    async def test_two_admins_at_once_get_two_versions(self, database: Database) -> None:
        await asyncio.gather(*(set_to(database, KEY, "guild", f"admin {number}") for number in range(6)))
        async with database.read() as session:
            entry = await queries.latest_persona(session, key=KEY, own=False)
            assert entry is not None
            versions = await queries.persona_versions(session, key=KEY, own=False, persona_id=entry.persona_id)
        assert [one.version for one in versions] == [6, 5, 4, 3, 2, 1]

    async def test_old_versions_are_deleted_unless_a_turn_was_answered_with_them(self, database: Database) -> None:
        await set_to(database, KEY, "member", "v1")
        async with database.write() as session:
            turn = await queries.begin_turn(session, key=KEY, text="hi", limit=1, now=NOW)
            assert turn.persona is not None
            prompt = TurnPrompt(
                turn_id=turn.turn_id, persona_id=turn.persona.persona_id, persona_version=1, num_pairs=0
            )
            session.add(prompt)
            await queries.finish_turn(
                session, key=KEY, turn_id=turn.turn_id, result=TurnResult("ho", 1, 1, "stop", 1, 1), now=NOW
            )
        for number in range(1, KEPT_VERSIONS + 5):
            await set_to(database, KEY, "member", f"v{number + 1}")
        async with database.write() as session:
            at = {"key": KEY, "own": True, "persona_id": turn.persona.persona_id}
            versions = await queries.persona_versions(session, **at)
            assert [each.version for each in versions] == [*range(KEPT_VERSIONS + 5, 5, -1), 1]
            await queries.forget_turn(session, key=KEY, turn_id=turn.turn_id)
        await set_to(database, KEY, "member", "the last")
        async with database.read() as session:
            assert len(await queries.persona_versions(session, **at)) == KEPT_VERSIONS

    async def test_reset_keeps_the_persona(self, database: Database) -> None:
        await set_to(database, KEY, "member", "mine")
        async with database.write() as session:
            await queries.begin_turn(session, key=KEY, text="hi", limit=1, now=NOW)
            await queries.end_dialog(session, key=KEY, now=NOW)
        assert await effective(database, KEY) == ("member", "mine")
