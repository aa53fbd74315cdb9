"""Show, export, delete, opt out: counted in every table, for a person everywhere or in one guild."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import func, or_, select, text, update

from bot.guilds.privacy import PrivacyService
from models import queries
from models.database import Database
from models.errors import MemberBlocked, QuotaExceeded, WrongEncryptionKey
from models.maintenance.rekey import rekey
from models.queries import inspection
from models.queries.administration import reports
from models.queries.administration.blocks import block_of
from models.queries.memory.facts import add_fact
from models.tables import (
    Base,
    BoundThread,
    DefaultPrompt,
    Delivery,
    Dialog,
    DialogSummary,
    MemoryWork,
    Persona,
    PersonaPicture,
    PersonaVersion,
    Turn,
    TurnPrompt,
)
from models.types import (
    DialogKey,
    GuildSettings,
    Limits,
    MemberSettings,
    OutgoingMessage,
    Place,
    ReplyLimits,
    ReportedAnswer,
    StoredFile,
)
from tests.bot.stored_turns import add_turn, turn_result

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
ANNA, BEN = 7, 8
EMOJI = "👩‍👩‍👧‍👦" * 500 + " שלום 한국어 e\u0301"


async def leave_data(database: Database, user: int, guild: int) -> None:
    """Everything a member can leave behind in a guild."""
    key = DialogKey(guild, user)
    async with database.write() as session:
        for number in range(3):
            await add_turn(session, key, NOW, f"{EMOJI} {number}", f"re {number}")
        again = await queries.begin_regeneration(session, key=key, limit=10, now=NOW)
        assert again is not None
        assert [pair.reply for pair in again.history] == ["re 0", "re 1"]
        await queries.finish_regeneration(
            session, key=key, turn_id=again.turn_id, result=turn_result("better"), now=NOW
        )
        await queries.begin_turn(session, key=key, text="still running", limit=10, now=NOW)
        shared = DialogKey(guild, user, 5, shared=True)
        turn = await queries.begin_turn(
            session,
            key=shared,
            text=f"shared by {user}",
            limit=0,
            author=f"Name {user}",
            files=(StoredFile("notes.txt", f"file of {user}"),),
            place=Place(guild, 5, user, nonce=guild * 10 + user),
            now=NOW,
        )
        result = replace(turn_result("to all"), messages=(OutgoingMessage("to all"),))
        assert await queries.finish_turn(session, key=shared, turn_id=turn.turn_id, result=result, now=NOW)
        thread = BoundThread(
            thread_id=guild * 10 + user, guild_id=guild, parent_id=5, creator_id=user, created_at=NOW, last_used_at=NOW
        )
        session.add(thread)
        for level in ("member", "guild"):
            await queries.set_persona(
                session, key=key, level=level, name="N", prompt=f"by {user}", author_id=user, now=NOW
            )
        own = await queries.latest_persona(session, key=key, own=True)
        assert own is not None
        session.add(PersonaPicture(persona_id=own.persona_id, media_type="image/png", content="cGlj", created_at=NOW))
        session.add(TurnPrompt(turn_id=turn.turn_id, persona_id=own.persona_id, persona_version=1, num_pairs=0))
        await add_fact(session, key=key, text=f"fact of {user}", now=NOW)
        summary = {"from_turn_id": 1, "to_turn_id": 2, "text": f"summary of {user}", "created_at": NOW}
        session.add(DialogSummary(dialog_id=again.dialog_id, **summary))
        session.add(MemoryWork(dialog_id=again.dialog_id))
        await queries.set_member_settings(session, key=key, settings=MemberSettings(locale="de"), now=NOW)
        await queries.set_guild_settings(session, key=key, settings=GuildSettings(locale="de"), actor_id=user, now=NOW)
        await queries.block_member(session, key=key, blocked=False, actor_id=BEN, now=NOW)
        other = DialogKey(guild, user + 50)
        await queries.block_member(session, key=other, blocked=True, actor_id=user, reason=f"why {user}", now=NOW)
        prompt = [{"role": "user", "content": f"also said by {user + 60}"}]
        answer = ReportedAnswer(f"reported {user}", "to all", prompt, speakers=frozenset({user + 60}))
        told = {"turn_id": turn.turn_id, "channel_id": 5, "reason": f"bad {user}", "answer": answer, "limit": 9}
        assert await reports.add_report(session, key=key, **told, now=NOW) == "stored"
        [report, *_] = await reports.reports(session, key=key, limit=1)
        assert await reports.close_report(
            session, key=key, report_id=report.report_id, actor_id=user, closed=True, now=NOW
        )


OF_GUILDS_ONLY = {"guild_profiles", "scene_characters"}
"""Only personas of a guild's own library can be in these."""


async def rows_naming(database: Database, user: int) -> dict[str, int]:
    """By the metadata, not by our list: every foreign key to users, and all below this person's dialogs."""
    found: dict[str, int] = {}
    async with database.read() as session:
        for table in Base.metadata.sorted_tables:
            columns = [key.parent for key in table.foreign_keys if key.column.table.name == "users"]
            if table.name == "users":
                columns = [table.c.id]
            conditions = [column == user for column in columns]
            dialogs = select(Dialog.id).where(Dialog.user_id == user)
            if "dialog_id" in table.c:
                conditions.append(table.c.dialog_id.in_(dialogs))
            turns = select(Turn.id).where(or_(Turn.dialog_id.in_(dialogs), Turn.author_id == user))
            if "turn_id" in table.c:
                conditions.append(table.c.turn_id.in_(turns))
            if "delivery_id" in table.c:
                conditions.append(table.c.delivery_id.in_(select(Delivery.id).where(Delivery.turn_id.in_(turns))))
            if "persona_id" in table.c and table.name not in OF_GUILDS_ONLY:
                own = select(Persona.id).where(Persona.owner_id == user)
                conditions.append(table.c.persona_id.in_(own))
            if conditions:
                count = await session.scalar(select(func.count()).select_from(table).where(or_(*conditions)))
                found[table.name] = int(count or 0)
    return found


class TestDelete:
    async def test_fault_36_nothing_is_left_in_any_table(self, database: Database) -> None:
        for user in (ANNA, BEN):
            for guild in (100, 101, 0):
                await leave_data(database, user, guild)
        before = await rows_naming(database, ANNA)
        assert all(before.values()), "the test must put something into every table that can name a person"
        of_ben = await rows_naming(database, BEN)
        service = PrivacyService(database)
        receipt = await service.delete(ANNA)
        assert receipt.counts["turns"] == before["turns"] == 15
        assert not any((await rows_naming(database, ANNA)).values())
        kept = ("dialogs", "turns", "reply_variants", "personas", "member_settings", "daily_usage", "users")
        now_of_ben = await rows_naming(database, BEN)
        assert {name: now_of_ben[name] for name in kept} == {name: of_ben[name] for name in kept}
        async with database.read() as session:
            guilds_own = await queries.assigned_persona(session, key=DialogKey(100, BEN), level="guild")
            assert guilds_own is not None
            assert await inspection.orphans(session) == {}

    async def test_fault_36_a_second_time_finds_nothing(self, database: Database) -> None:
        await leave_data(database, ANNA, 100)
        service = PrivacyService(database)
        first = await service.delete(ANNA)
        second = await service.delete(ANNA)
        assert any(first.counts.values())
        assert not any(second.counts.values())
        assert first.receipt_id != second.receipt_id

    async def test_fault_36_a_reply_that_comes_later_is_not_stored(self, database: Database) -> None:
        key = DialogKey(100, ANNA)
        async with database.write() as session:
            begun = await queries.begin_turn(session, key=key, text="hi", limit=10, now=NOW)
        await PrivacyService(database).delete(ANNA)
        async with database.write() as session:
            assert not await queries.finish_turn(
                session, key=key, turn_id=begun.turn_id, result=turn_result("late"), now=NOW
            )
        assert not any((await rows_naming(database, ANNA)).values())

    async def test_by_an_admin_in_one_guild(self, database: Database) -> None:
        for guild in (100, 101):
            await leave_data(database, ANNA, guild)
        service = PrivacyService(database)
        receipt = await service.delete(ANNA, guild_id=100, actor_id=BEN)
        assert receipt.counts["turns"] == 5
        assert not any((await service.show(ANNA, guild_id=100)).counts.values())
        assert (await service.show(ANNA, guild_id=101)).counts["turns"] == 5
        async with database.read() as session:
            [newest, *_] = await queries.audit_log(session, key=DialogKey(100, BEN), limit=5)
        assert (newest.action, newest.actor_id, newest.target_id) == ("privacy.delete", BEN, None)
        assert receipt.receipt_id in newest.details

    async def test_a_whole_guild(self, database: Database) -> None:
        for guild in (100, 101):
            await leave_data(database, ANNA, guild)
        await PrivacyService(database).delete_guild(100, actor_id=BEN)
        async with database.read() as session:
            assert {line.guild_id for line in await inspection.guild_lines(session)} == {101}
            assert await inspection.orphans(session) == {}

    async def test_a_block_outlives_it_without_its_reason(self, database: Database) -> None:
        key = DialogKey(100, ANNA)
        async with database.write() as session:
            await queries.block_member(session, key=key, blocked=True, actor_id=BEN, reason="spam", now=NOW)
        await PrivacyService(database).delete(ANNA)
        async with database.read() as session:
            block = await block_of(session, key=key, now=NOW)
        assert block is not None
        assert (block.reason, block.blocked_by) == (None, BEN)

    async def test_a_report_goes_with_the_one_who_was_answered_and_its_prompt_with_the_others(
        self, database: Database
    ) -> None:
        for user in (ANNA, BEN):
            await leave_data(database, user, 100)
        key = DialogKey(100, BEN)

        async def kept() -> list[tuple[int, str, bool]]:
            found = []
            async with database.read() as session:
                for line in await reports.reports(session, key=key, limit=9):
                    details = await reports.report_details(session, key=key, report_id=line.report_id)
                    assert details is not None
                    found.append((line.author_id, details.answer.question, details.answer.prompt is not None))
            return found

        assert await kept() == [(BEN, "reported 8", True), (ANNA, "reported 7", True)]
        await PrivacyService(database).delete(ANNA + 60, guild_id=100)
        assert await kept() == [(BEN, "reported 8", True), (ANNA, "reported 7", False)]
        await PrivacyService(database).delete(ANNA, guild_id=100)
        assert await kept() == [(BEN, "reported 8", True)]


class TestExport:
    async def test_everything_is_in_it_and_nobody_elses(self, database: Database) -> None:
        await leave_data(database, ANNA, 100)
        await leave_data(database, BEN, 100)
        archive = zipfile.ZipFile(io.BytesIO(await PrivacyService(database).export(ANNA)))
        data = json.loads(archive.read("export.json"))
        [dialog] = data["dialogs"]
        assert [turn["reply"] for turn in dialog["turns"]] == ["re 0", "re 1", "better", None]
        assert dialog["turns"][0]["user"] == f"{EMOJI} 0"
        assert list(data["earlier_replies"].values()) == [["re 2"]]
        assert {persona["prompt"] for persona in data["personas"]} == {"by 7"}
        assert {(each["name"], each["own"]) for each in data["personas"]} == {("N", True), ("N", False)}
        assert [each["content"] for each in data["persona_pictures"]] == ["cGlj"]
        assert {each["level"] for each in data["persona_assignments"]} == {"member"}
        assert len(data["daily_usage"]) == len(data["member_settings"]) == 1
        assert [each["reason"] for each in data["reports_made"]] == ["bad 7"]
        assert [each["question"] for each in data["reported_answers"]] == ["reported 7"]
        [shared] = data["shared_dialogs"]
        assert [(turn["user"], turn["author_name"]) for turn in shared["turns"]] == [("shared by 7", "Name 7")]
        [file] = shared["turns"][0]["files"]
        assert (file["name"], file["content"], file["kind"]) == ("notes.txt", "file of 7", "file")
        assert [thread["thread_id"] for thread in data["bound_threads"]] == [1007]
        own, together = (name for name in archive.namelist() if name.endswith(".md"))
        assert "> re 1" in archive.read(own).decode()
        assert "> shared by 7" in archive.read(together).decode()
        for name in archive.namelist():
            content = archive.read(name).decode()
            assert "by 8" not in content
            assert "Name 8" not in content
            assert "file of 8" not in content


class TestOptOut:
    async def test_chat_goes_on_without_memory(self, database: Database) -> None:
        key = DialogKey(100, ANNA)
        service = PrivacyService(database)
        assert await service.opt_out(ANNA)
        assert not await service.opt_out(ANNA)
        async with database.write() as session:
            begun = await queries.begin_turn(session, key=key, text="hi", limit=10, interaction_id=5, now=NOW)
            assert (begun.turn_id, begun.history, begun.settings.opted_out) == (0, (), True)
            assert not await queries.finish_turn(session, key=key, turn_id=0, result=turn_result("ho"), now=NOW)
        assert not any((await rows_naming(database, ANNA)).values())
        assert await service.opt_in(ANNA)
        async with database.write() as session:
            begun = await queries.begin_turn(session, key=key, text="hi", limit=10, interaction_id=6, now=NOW)
            assert begun.turn_id > 0

    async def test_it_ends_what_is_open_and_outlives_a_deletion(self, database: Database) -> None:
        await leave_data(database, ANNA, 100)
        service = PrivacyService(database)
        await service.opt_out(ANNA)
        async with database.read() as session:
            assert await queries.history(session, key=DialogKey(100, ANNA), limit=10) == ()
        await service.delete(ANNA)
        assert (await service.show(ANNA)).opted_out_since is not None


class TestPolicy:
    async def test_a_quota_is_refused_with_its_number(self, database: Database) -> None:
        key = DialogKey(100, ANNA)
        async with database.write() as session:
            await queries.set_guild_settings(
                session, key=key, settings=GuildSettings(daily_turns=1), actor_id=BEN, now=NOW
            )
            begun = await queries.begin_turn(session, key=key, text="hi", limit=10, now=NOW)
            await queries.finish_turn(session, key=key, turn_id=begun.turn_id, result=turn_result("ho"), now=NOW)
        with pytest.raises(QuotaExceeded, match="limit of 1 turns"):
            async with database.write() as session:
                await queries.begin_turn(session, key=key, text="hi", limit=10, interaction_id=9, now=NOW)
        async with database.write() as session:  # a role may have more, and nothing of the refusal was kept
            await queries.begin_turn(
                session,
                key=key,
                text="hi",
                limit=10,
                interaction_id=9,
                limits=ReplyLimits(Limits(daily_messages=5)),
                now=NOW,
            )

    async def test_a_blocked_member_is_refused_in_that_guild_only(self, database: Database) -> None:
        async with database.write() as session:
            until = NOW + timedelta(hours=1)
            await queries.block_member(
                session, key=DialogKey(100, ANNA), blocked=True, actor_id=BEN, reason="spam", until=until, now=NOW
            )
        with pytest.raises(MemberBlocked) as refused:
            async with database.write() as session:
                await queries.begin_turn(session, key=DialogKey(100, ANNA), text="hi", limit=10, now=NOW)
        assert (refused.value.until, refused.value.reason) == (until, "spam")
        async with database.write() as session:  # it ends by itself
            await queries.begin_turn(session, key=DialogKey(100, ANNA), text="hi", limit=10, now=until)
        async with database.write() as session:
            await queries.begin_turn(session, key=DialogKey(101, ANNA), text="hi", limit=10, now=NOW)

    async def test_settings_reach_the_turn(self, database: Database) -> None:
        key = DialogKey(100, ANNA)
        async with database.write() as session:
            chosen = GuildSettings(max_chat_logs=20, max_reply_tokens=99, streaming=False, locale="fr")
            await queries.set_guild_settings(session, key=key, settings=chosen, actor_id=BEN, now=NOW)
            assert await queries.guild_settings(session, key=key) == chosen
            await queries.set_member_settings(session, key=key, settings=MemberSettings(max_chat_logs=2), now=NOW)
            begun = await queries.begin_turn(session, key=key, text="hi", limit=10, now=NOW)
            other = await queries.begin_turn(session, key=DialogKey(100, BEN), text="hi", limit=10, now=NOW)
        assert (begun.settings.max_chat_logs, begun.settings.max_reply_tokens, begun.settings.locale) == (2, 99, "fr")
        assert (other.settings.max_chat_logs, other.settings.streaming) == (20, False)


class TestEncryption:
    async def test_text_is_sealed_at_rest_and_keys_rotate(self, database_url: str) -> None:
        old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
        plain = Database(database_url)
        await leave_data(plain, ANNA, 100)
        async with plain.write() as session:
            await session.execute(update(PersonaVersion).values(card='{"name": "Jack"}'))
            session.add(DefaultPrompt(sha256="0", text="You are a test.", first_used_at=NOW))
        await plain.close()

        async def stored(database: Database) -> list[str]:
            async with database.read() as session:
                rows = await session.execute(
                    text(
                        "SELECT user_text FROM turns UNION ALL SELECT reply FROM turns WHERE reply IS NOT NULL "
                        "UNION ALL SELECT reply FROM reply_variants UNION ALL SELECT prompt FROM persona_versions "
                        "UNION ALL SELECT card FROM persona_versions UNION ALL SELECT content FROM persona_pictures "
                        "UNION ALL SELECT text FROM default_prompts UNION ALL SELECT reason FROM member_blocks "
                        "UNION ALL SELECT reason FROM reports UNION ALL SELECT pair FROM reports "
                        "UNION ALL SELECT prompt FROM reports"
                    )
                )
                return [str(value) for value in rows.scalars()]

        async def replies(database: Database) -> list[str]:
            async with database.read() as session:
                pairs = await queries.history(session, key=DialogKey(100, ANNA), limit=10)
                return [pair.reply for pair in pairs]

        first = Database(database_url, encryption_keys=[old])
        assert await replies(first) == ["re 0", "re 1", "better"]  # turned on: what is there stays readable
        assert sum((await rekey(first)).values()) > 0
        assert all(value.startswith("\x02f:") for value in await stored(first))
        assert await replies(first) == ["re 0", "re 1", "better"]
        await first.close()

        second = Database(database_url, encryption_keys=[new, old])
        assert sum((await rekey(second)).values()) > 0
        assert set((await rekey(second)).values()) == {0}
        await second.close()

        third = Database(database_url, encryption_keys=[new])
        assert await replies(third) == ["re 0", "re 1", "better"]
        await third.close()
        for keys in ([old], []):
            wrong = Database(database_url, encryption_keys=keys)
            with pytest.raises(WrongEncryptionKey):
                await replies(wrong)
            await wrong.close()

        last = Database(database_url, encryption_keys=[new])
        await rekey(last, plain=True)
        await last.close()
        plain = Database(database_url)
        assert await replies(plain) == ["re 0", "re 1", "better"]
        await plain.close()

    async def test_a_message_cannot_pass_for_a_sealed_one(self, database: Database) -> None:
        key = DialogKey(100, ANNA)
        for trick in ("\x02f:abc", "\x02p:abc", "\x02"):
            async with database.write() as session:
                begun = await queries.begin_turn(session, key=key, text=trick, limit=10, now=NOW)
                await queries.finish_turn(session, key=key, turn_id=begun.turn_id, result=turn_result(trick), now=NOW)
            async with database.read() as session:
                pairs = await queries.history(session, key=key, limit=1)
            assert (pairs[0].user, pairs[0].reply) == (trick, trick)

    def test_a_key_that_is_none(self, sqlite_url: str) -> None:
        with pytest.raises(WrongEncryptionKey):
            Database(sqlite_url, encryption_keys=["not a key"])
