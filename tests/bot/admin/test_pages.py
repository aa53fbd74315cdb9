"""What the pages show, on both databases: lists by pages, conversations, what is withheld, search, and what is done."""

from __future__ import annotations

import asyncio
import html
import re
from datetime import timedelta

import pytest
from cryptography.fernet import Fernet

from bot.admin import context
from bot.admin.pages import search
from models import queries
from models.database import Database
from models.errors import DatabaseUnavailable
from models.queries.administration import purges
from models.queries.privacy import opt_outs
from models.types import (
    DialogKey,
    GuildSettings,
    MemberSettings,
    PromptInputs,
    PromptRecord,
    PurgeScope,
    RolePolicy,
    TurnResult,
)
from tests.bot.admin.admin_kit import ANN, BEN, BOT, CEM, DAN, NASTY, NOW, browser, fill, raw

HERE = f"/a/{BOT}/guilds/100"


@pytest.fixture
async def database(database_url: str):
    opened = Database(database_url, guarded=True)
    yield opened
    await opened.close()


async def audit(database: Database) -> list[tuple[str, int | None, int | None, str]]:
    """The operator's entries: action, guild, person, details."""
    return await raw(
        database,
        "SELECT action, guild_id, target_id, details FROM audit_log WHERE action LIKE 'operator.%' ORDER BY id",
    )


def said(page: str) -> str:
    """The text of a page without its marks."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", page)))


async def test_every_page_can_be_read(database: Database) -> None:
    ids = await fill(database)
    async with browser(database) as here:
        await here.sign_in()
        answer = await here.get("/")
        if answer.status_code == 303:
            assert answer.headers["location"] == f"/a/{BOT}"
        for path in (
            f"/a/{BOT}", f"/a/{BOT}/guilds", HERE, f"{HERE}/members", f"{HERE}/members/{ANN}", f"/a/{BOT}/members",
            f"/a/{BOT}/members/{ANN}", f"{HERE}/personas", f"{HERE}/personas/{ids['persona']}", f"/a/{BOT}/dialogs",
            f"/a/{BOT}/dialogs?state=ended", f"{HERE}/dialogs", f"{HERE}/dialogs/{ids['ann dialog']}",
            f"{HERE}/turns/{ids['ann']}", f"/a/{BOT}/search", f"/a/{BOT}/search?q=secret", f"/a/{BOT}/audit",
            f"/a/{BOT}/audit?guild=100&action=operator", "/settings", f"/a/{BOT}/guilds/0",
        ):  # fmt: skip
            page = await here.page(path)
            assert "<h1>" in page
            assert NASTY not in page
            assert "<script" not in page


async def test_a_conversation_has_everything_of_a_turn(database: Database) -> None:
    ids = await fill(database)
    async with browser(database) as here:
        await here.sign_in()
        page = await here.page(f"{HERE}/dialogs/{ids['ann dialog']}")
        text = said(page)
        for part in (
            "secret of Ann <script>alert(1)</script>' OR 1=1 --", "{{ 7*191 }}", "⟨U+202E⟩gnol⟨U+001B⟩[2J",
            "a long **reply**", f"persona {ids['persona']} v2", "0 pairs of history",
            "400 + 51 tokens", "first token 0.25 s",
            "50.0 tokens/s", "failed", "error e-77", f"Turn {ids['ann']}: prompt as sent",
        ):  # fmt: skip
            assert part in text, part
        assert "&lt;script&gt;" in page
        assert await audit(database) == [("operator.read", 100, ANN, f'{{"dialog": {ids["ann dialog"]}}}')]
        prompt = said(await here.page(f"{HERE}/turns/{ids['ann']}"))
        assert "You are a kind pirate." in prompt
        assert "secret of Ann" in prompt
        assert (await audit(database))[-1][3] == f'{{"dialog": {ids["ann dialog"]}, "turn": {ids["ann"]}}}'


async def test_nothing_is_read_if_the_look_cannot_be_recorded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await fill(database)

    async def broken(*args: object, **more: object) -> None:
        raise DatabaseUnavailable("the disk is full")

    async with browser(database) as here:
        await here.sign_in()
        monkeypatch.setattr(Database, "run", broken)
        for path in (f"{HERE}/dialogs/{ids['ann dialog']}", f"{HERE}/turns/{ids['ann']}", f"/a/{BOT}/search?q=secret"):
            answer = await here.get(path)
            assert answer.status_code == 503
            assert "secret" not in answer.text.replace('value="secret"', "")


class TestWithheld:
    async def test_words_of_who_opted_out(self, database: Database) -> None:
        ids = await fill(database)
        shared = DialogKey(100, ANN, 5, shared=True)
        ours = database.for_application(BOT)
        async with ours.write() as session:  # Ann quotes Ben in a conversation that both share
            turn = await queries.begin_turn(session, key=shared, text="see this", author="Ann", limit=9, now=NOW)
        await raw(
            database,
            "INSERT INTO turn_files (turn_id, position, name, content, kind, author_id) "
            "VALUES (:turn, 0, 'Ben', 'quoted from Ben', 'quote', :ben)",
            turn=turn.turn_id, ben=BEN,
        )  # fmt: skip
        async with browser(database) as here:
            await here.sign_in()
            page = said(await here.page(f"{HERE}/dialogs/{ids['ben dialog']}"))
            assert "Its author has opted out" in page
            assert "secret of Ben" not in page
            assert "to Ben" not in page
            assert "400 + 51 tokens" in page
            shared_page = said(await here.page(f"{HERE}/dialogs/{turn.dialog_id}"))
            assert "see this" in shared_page
            assert "quoted from Ben" not in shared_page
            assert "Opted out on" in said(await here.page(f"{HERE}/members/{BEN}"))
            assert "secret of Ben" not in said(await here.page(f"/a/{BOT}/search?q=secret&private=yes"))

    async def test_a_prompt_with_words_of_who_opted_out(self, database: Database) -> None:
        await fill(database)
        ours, ann, eve = database.for_application(BOT), *(DialogKey(100, each, 5, shared=True) for each in (ANN, 12))
        async with ours.write() as session:
            first = await queries.begin_turn(session, key=eve, text="secret of Eve", author="Eve", limit=9, now=NOW)
            done = TurnResult("to Eve", 1, 1, "stop", 1, 1, prompt=PromptRecord())
            await queries.finish_turn(session, key=eve, turn_id=first.turn_id, result=done, now=NOW)
        turns = []
        for inputs in (PromptInputs(max_pairs=1, history_turn_id=first.turn_id, selected_turn_id=first.turn_id), None):
            record = PromptRecord(num_pairs=1, first_turn_id=first.turn_id, inputs=inputs) if inputs else PromptRecord()
            async with ours.write() as session:
                turn = await queries.begin_turn(session, key=ann, text="mine", author="Ann", limit=9, now=NOW)
                done = TurnResult("to Ann", 1, 1, "stop", 1, 1, prompt=record)
                await queries.finish_turn(session, key=ann, turn_id=turn.turn_id, result=done, now=NOW)
            turns.append(turn.turn_id)
        async with browser(database) as here:
            await here.sign_in()
            assert "secret of Eve" in said(await here.page(f"{HERE}/turns/{turns[0]}"))
            async with ours.write() as session:
                await opt_outs.opt_out(session, user_id=12, now=NOW)
            withheld = said(await here.page(f"{HERE}/turns/{turns[0]}"))
            assert "somebody who has opted out" in withheld
            assert "secret of Eve" not in withheld
            assert "mine" in said(await here.page(f"{HERE}/turns/{turns[1]}"))  # it has no words of hers
            await raw(
                database,
                "INSERT INTO dialog_summaries (id, dialog_id, from_turn_id, to_turn_id, text, created_at) "
                "VALUES (5, :dialog, :turn, :turn, 'Eve told a secret', '2026-11-29 00:00:00+00')",
                dialog=first.dialog_id, turn=first.turn_id,
            )  # fmt: skip
            await raw(database, "UPDATE turn_prompts SET summary_id = 5 WHERE turn_id = :turn", turn=turns[1])
            told = said(await here.page(f"{HERE}/turns/{turns[1]}"))
            assert "somebody who has opted out" in told
            assert "Eve told" not in told

    async def test_private_words_are_shown_on_demand_alone(self, database: Database) -> None:
        ids = await fill(database)
        async with browser(database) as here:
            await here.sign_in()
            for guild, name, secret in ((100, "cem", "secret of Cem"), (0, "direct", "secret in direct messages")):
                path = f"/a/{BOT}/guilds/{guild}/dialogs/{ids[f'{name} dialog']}"
                assert secret not in await here.page(path)
                assert secret not in await here.page(f"/a/{BOT}/guilds/{guild}/turns/{ids[name]}")
                assert secret not in said(await here.page(f"/a/{BOT}/search?q=secret"))
                assert [each for each in await audit(database) if each[0] == "operator.read" and each[1] == guild] == []
                assert secret in await here.page(f"{path}?words=shown")
                assert [each[:3] for each in await audit(database) if each[1] == guild][-1] == (
                    "operator.read", guild, CEM if guild else ANN,
                )  # fmt: skip
            assert "secret of Cem" in said(await here.page(f"/a/{BOT}/search?q=secret&private=yes"))

    async def test_what_an_admin_has_deleted(self, database: Database) -> None:
        ids = await fill(database)
        ours, key = database.for_application(BOT), DialogKey(100, ANN)
        async with ours.write() as session:
            purge_id = await purges.begin_purge(session, key=key, now=NOW)
            scope = PurgeScope("conversations", NOW + timedelta(hours=1))
            assert await purges.hide_conversations(session, key=key, scope=scope, purge_id=purge_id, now=NOW, limit=9)
        async with browser(database) as here:
            await here.sign_in()
            page = said(await here.page(f"{HERE}/dialogs/{ids['ann dialog']}?words=shown"))
            assert "deleted by an admin" in page
            assert "secret" not in page
            assert "secret" not in said(await here.page(f"{HERE}/turns/{ids['ann']}?words=shown"))
            assert "secret of Ann" not in said(await here.page(f"/a/{BOT}/search?q=secret"))

    async def test_a_members_own_persona(self, database: Database) -> None:
        await fill(database)
        ours = database.for_application(BOT)
        owned = []
        async with ours.write() as session:
            for member in (ANN, BEN):
                mine = await queries.set_persona(
                    session, key=DialogKey(100, member), level="member", name=f"Own {member}", prompt="my own",
                    author_id=member, now=NOW,
                )  # fmt: skip
                owned.append(mine.persona_id)
        async with browser(database) as here:
            await here.sign_in()
            assert "Own 7" not in await here.page(f"{HERE}/personas")
            assert "my own" in await here.page(f"{HERE}/personas/{owned[0]}")
            assert await audit(database) == [("operator.persona", 100, ANN, f'{{"persona": {owned[0]}}}')]
            refused = await here.get(f"{HERE}/personas/{owned[1]}")
            assert (refused.status_code, "my own" in refused.text) == (403, False)


class TestEncrypted:
    async def test_texts_open_with_the_key_alone(self, database_url: str) -> None:
        sealed = Database(database_url, encryption_keys=[Fernet.generate_key().decode()], guarded=True)
        ids = await fill(sealed)
        async with browser(sealed) as here:
            await here.sign_in()
            assert "secret of Ann" in await here.page(f"{HERE}/dialogs/{ids['ann dialog']}")
            assert "secret of Ann" in said(await here.page(f"/a/{BOT}/search?q=secret"))
        await sealed.close()
        for keys in ([], [Fernet.generate_key().decode()]):
            closed = Database(database_url, encryption_keys=keys, guarded=True)
            async with browser(closed) as here:
                await here.sign_in()
                for path in (f"{HERE}/dialogs/{ids['ann dialog']}", f"{HERE}/turns/{ids['ann']}",
                             f"/a/{BOT}/search?q=secret"):  # fmt: skip
                    page = said(await here.page(path))
                    assert "GUILDLLAMA_ENCRYPTION_KEYS" in page
                    assert "secret of Ann" not in page
                assert "400 + 51 tokens" in said(await here.page(f"{HERE}/dialogs/{ids['ann dialog']}"))
                assert (await here.get(f"{HERE}/personas/{ids['persona']}")).status_code == 503
                assert (await here.get(HERE)).status_code == 200
            await closed.close()


class TestForeignIds:
    async def test_of_another_guild_or_application(self, database: Database) -> None:
        ids = await fill(database)
        async with browser(database) as here:
            await here.sign_in()
            dialog, turn, persona = ids["ann dialog"], ids["ann"], ids["persona"]
            for path in (
                f"/a/{BOT}/guilds/200/dialogs/{dialog}", f"/a/{BOT}/guilds/200/turns/{turn}", "/a/12",
                f"/a/{BOT}/guilds/200/personas/{persona}", f"/a/12/guilds/100/dialogs/{dialog}", "/a/12/guilds/100",
                f"/a/0/guilds/100/dialogs/{dialog}", f"{HERE}/members/{DAN}", f"/a/12/members/{ANN}",
                f"/a/{BOT}/guilds/999/members", f"{HERE}/dialogs/999999", f"{HERE}/turns/999999",
                f"/a/12/guilds/100/turns/{turn}", f"/a/{BOT}/guilds/-1", f"/a/{BOT}/guilds/{10**30}",
                f"/a/{BOT}/guilds/{'9' * 5000}", f"/a/{BOT}/guilds/x", f"/a/{BOT}/guilds/١٠٠", f"/a/{BOT}/guilds/1e2",
            ):  # fmt: skip
                answer = await here.get(path)
                assert answer.status_code == 404, path
                assert "secret" not in answer.text
            assert await audit(database) == []
            for user in (f"/a/{BOT}/members/0", f"{HERE}/members/0"):  # what a channel shares is stored under 0
                assert (await here.get(user)).status_code == 404
                assert (await here.send("/settings", f"{user}/delete", typed="0")).status_code == 404
            for action in (
                f"/a/{BOT}/guilds/200/dialogs/{dialog}/end", f"/a/12/guilds/100/dialogs/{dialog}/end",
                f"/a/{BOT}/guilds/999/members/{ANN}/block", f"/a/12/guilds/100/members/{ANN}/delete",
            ):  # fmt: skip
                answer = await here.send("/settings", action, typed=str(ANN))
                assert answer.status_code == 404, action
            assert "secret of Ann" in await here.page(f"{HERE}/dialogs/{dialog}")

    async def test_odd_text_in_every_field(self, database: Database) -> None:
        await self.all_fields(database, NASTY)

    @pytest.mark.long
    @pytest.mark.parametrize("nasty", ["' OR '1'='1", "%00", "x" * 900, "1; DROP TABLE turns", "🦙" * 50, "%", "_"])
    async def test_more_odd_text_in_every_field(self, database: Database, nasty: str) -> None:
        await self.all_fields(database, nasty)

    async def all_fields(self, database: Database, nasty: str) -> None:
        ids = await fill(database)
        async with browser(database) as here:
            await here.sign_in()
            for path in (f"/a/{BOT}/guilds", f"{HERE}/members", f"/a/{BOT}/members", f"{HERE}/personas",
                         f"/a/{BOT}/dialogs", f"{HERE}/dialogs", f"{HERE}/dialogs/{ids['ann dialog']}",
                         f"{HERE}/turns/{ids['ann']}", f"/a/{BOT}/search", f"/a/{BOT}/audit", "/settings",
                         f"{HERE}/personas/{ids['persona']}", f"{HERE}/members/{ANN}"):  # fmt: skip
                for name in ("after", "before", "q", "guild", "member", "action", "state", "words", "from", "to"):
                    answer = await here.get(path, params={name: nasty})
                    assert answer.status_code in (200, 400), (path, name, answer.text)
                    assert "<script" not in answer.text
                    assert "1337" not in answer.text
            forms = f"{HERE}/members/{ANN}"
            for action, fields in (("block", {"reason": nasty, "days": nasty}), ("delete", {"typed": nasty})):
                answer = await here.send(forms, f"{forms}/{action}", **fields)
                assert answer.status_code == 400
            assert (await here.send("/settings", f"/a/{BOT}/members/{ANN}/delete", typed=nasty)).status_code == 400
            assert "secret of Ann" in await here.page(f"{HERE}/dialogs/{ids['ann dialog']}")

    async def test_too_many_and_doubled_fields(self, database: Database) -> None:
        async with browser(database) as here:
            await here.sign_in()
            for query in ("&".join(f"a{n}=1" for n in range(50)), "q=1&q=2", "q=%00", f"q={'x' * 1001}"):
                assert (await here.get(f"/a/{BOT}/search?{query}")).status_code == 400
            assert (await here.get(f"/a/{BOT}/search?q=" + "+".join("abcdefghijkl"))).status_code == 400


async def test_lists_go_page_by_page(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = database.for_application(BOT)
    async with ours.write() as session:
        for number in range(1, 8):
            key = DialogKey(100 + number % 2, number)
            for repeat in range(2):  # the second one ends the first; all have the same time
                turn = await queries.begin_turn(session, key=key, text=f"{number}", limit=0, now=NOW)
                await queries.fail_turn(session, key=key, turn_id=turn.turn_id, status="failed", error_id="", now=NOW)
                if repeat == 0:
                    await queries.end_dialog(session, key=key, now=NOW)
            await queries.set_member_settings(session, key=key, settings=MemberSettings(private=False), now=NOW)
    for module in ("guilds", "members", "dialogs", "personas", "audit"):
        monkeypatch.setattr(f"bot.admin.pages.{module}.PAGE", 2)
    assert context.PAGE == 50

    async def all_of(path: str, link: str) -> list[str]:
        found: list[str] = []
        while True:
            page = await here.page(path)
            rows = re.findall(link, page)
            assert len(rows) <= 2
            found += rows
            following = re.search(r'rel="next" href="([^"]*)"', page)
            if following is None:
                return found
            path = path.partition("?")[0] + html.unescape(following[1])

    async with browser(database) as here:
        await here.sign_in()
        members = r'<th scope="row"><a href="[^"]*/members/(\d+)"'
        assert await all_of(f"/a/{BOT}/members", members) == list("1234567")
        assert await all_of("/a/11/guilds/101/members", members) == list("1357")
        assert await all_of(f"/a/{BOT}/guilds", r'<th scope="row"><a href="[^"]*/guilds/(\d+)"') == ["100", "101"]
        dialogs = r'<th scope="row"><a href="[^"]*/dialogs/(\d+)"'
        ids = [str(number) for number in range(14, 0, -1)]
        assert await all_of(f"/a/{BOT}/dialogs?state=open", dialogs) == ids[0::2]
        assert await all_of(f"/a/{BOT}/dialogs?state=ended", dialogs) == ids[1::2]
        assert sorted(await all_of("/a/11/guilds/101/dialogs", dialogs), key=int) == [
            "1",
            "2",
            "5",
            "6",
            "9",
            "10",
            "13",
            "14",
        ]
        assert await all_of("/a/11/guilds/101/members/3", dialogs) == ["6", "5"]
        for number in (1, 2, 5):
            await here.page(f"/a/11/guilds/101/dialogs/{number}")
        entries = await all_of(f"/a/{BOT}/audit", r'<tr>\n<th scope="row">(\d+)</th>')
        assert entries == sorted(entries, key=int, reverse=True)
        assert len(entries) == 3


async def test_search_goes_back_in_time(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = await fill(database)
    async with browser(database) as here:
        await here.sign_in()
        page = await here.page(f"/a/{BOT}/search?q=SECRET+ann")
        assert "1 found" in said(page)
        assert "all there are" in said(page)
        assert "<mark>secret</mark>" in page
        assert [each[0] for each in await audit(database)] == ["operator.search"]
        assert "secret of Dan" in said(await here.page(f"/a/{BOT}/search?q=secret&guild=200"))
        assert "secret of Dan" not in said(await here.page(f"/a/{BOT}/search?q=secret&guild=100"))
        assert "secret of Dan" in said(await here.page(f"/a/{BOT}/search?q=secret&member={DAN}"))
        assert "0 found" in said(await here.page(f"/a/{BOT}/search?q=s%25cret"))  # no pattern of SQL
        monkeypatch.setattr(search, "MOST_HITS", 1)
        found, path = [], f"/a/{BOT}/search?q=secret&private=yes"
        for _ in range(9):
            page = await here.page(path)
            found += re.findall(r"Dialog \d+, turn (\d+)", page)
            following = re.search(r'rel="next" href="([^"]*)"', page)
            if following is None:
                break
            path = f"/a/{BOT}/search" + html.unescape(following[1])
        expected = sorted((ids[name] for name in ("ann", "cem", "dan", "direct")), reverse=True)
        assert found == [str(each) for each in expected]


class TestActs:
    async def test_a_dialog_is_ended(self, database: Database) -> None:
        ids = await fill(database)
        ours, path = database.for_application(BOT), f"{HERE}/dialogs/{ids['ann dialog']}"
        async with browser(database) as here:
            await here.sign_in()
            assert (await here.send(path, f"{path}/end")).status_code == 303
            assert "ended: operator" in said(await here.page(path))
            assert "End this dialog" not in await here.page(path)
            assert (await here.send("/settings", f"{path}/end")).status_code == 404
        assert ("operator.end", 100, ANN, f'{{"dialog": {ids["ann dialog"]}}}') in await audit(database)
        async with ours.write() as session:
            turn = await queries.begin_turn(session, key=DialogKey(100, ANN), text="hi", limit=9, now=NOW)
            assert turn.history == ()

    async def test_a_member_is_blocked_and_what_is_written_stops(self, database: Database) -> None:
        await fill(database)
        ours, key, path = database.for_application(BOT), DialogKey(100, ANN), f"{HERE}/members/{ANN}"
        async with ours.write() as session:
            await queries.begin_turn(session, key=key, text="now", limit=9, interaction_id=77, now=NOW)
        async with browser(database) as here:
            await here.sign_in()
            sending = asyncio.create_task(here.send(path, f"{path}/block", reason="no <b>rude</b> words", days="3"))
            async with asyncio.timeout(10):
                while True:
                    asked = await raw(database, "SELECT interaction_id, user_id FROM stop_requests")
                    if asked or sending.done():
                        break
                    await asyncio.sleep(0.05)
            assert asked == [(77, ANN)]
            await raw(database, "DELETE FROM stop_requests")  # as the process does that writes the reply
            assert (await sending).status_code == 303
            page = said(await here.page(path))
            assert "no <b>rude</b> words" in page
            assert "blocked" in await here.page(f"{HERE}/members")
            (row,) = await raw(database, "SELECT actor_id, target_id FROM audit_log WHERE action = 'member.block'")
            assert row == (None, ANN)
            assert (await here.send(path, f"{path}/unblock")).status_code == 303
            assert "They can no longer chat" in await here.page(path)

    @pytest.mark.parametrize("everywhere", [False, True])
    async def test_a_persons_data_is_deleted(self, database: Database, everywhere: bool) -> None:
        ids = await fill(database)
        path = f"/a/{BOT}/members/{ANN}" if everywhere else f"{HERE}/members/{ANN}"
        async with browser(database) as here:
            await here.sign_in()
            wrong = await here.send(path, f"{path}/delete", typed=str(BEN))
            assert (wrong.status_code, "Nothing was deleted" in wrong.text) == (400, True)
            done = await here.send(path, f"{path}/delete", typed=str(ANN))
            assert done.status_code == 200
            assert re.search(r"Receipt [0-9a-f]{12}", done.text)
            assert (await here.get(f"{HERE}/dialogs/{ids['ann dialog']}")).status_code == 404
            direct = await here.get(f"/a/{BOT}/guilds/0/dialogs/{ids['direct dialog']}")
            assert direct.status_code == (404 if everywhere else 200)
            assert (await here.get(f"{HERE}/dialogs/{ids['ben dialog']}")).status_code == 200


async def test_settings_hide_what_is_secret(database: Database) -> None:
    async with browser(
        database, discord_token="tok.en.secret", engine_api_key="sk-hidden", engine_url="http://u:pass@127.0.0.1:1/v1?k=v",
        database_url="postgresql://me:hunter2@db/x", engine_args="--x y",
    ) as here:  # fmt: skip
        await here.sign_in()
        page = await here.page("/settings")
        for secret in ("tok.en", "sk-hidden", "pass@", "hunter2", "k=v", "--x"):
            assert secret not in page
        assert "set, not shown" in page
        assert "http://127.0.0.1:1/v1" in page


async def test_unknown_failures_tell_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = await fill(database)

    async def broken(*args: object, **more: object) -> None:
        raise KeyError("secret of Ann")

    async with browser(database) as here:
        await here.sign_in()
        monkeypatch.setattr("bot.admin.pages.dialogs.turn_views", broken)
        answer = await here.get(f"{HERE}/dialogs/{ids['ann dialog']}")
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert "frame-ancestors 'none'" in answer.headers.get("content-security-policy", "")


async def test_settings_of_a_guild_are_readable(database: Database) -> None:
    await fill(database)
    async with database.for_application(BOT).write() as session:
        roles = (RolePolicy(5, allowed=True, daily_turns=9),)
        chosen = GuildSettings(roles=roles, channels=frozenset({77}), filter_words=("rude word",), max_chat_logs=6)
        await queries.set_guild_settings(session, key=DialogKey(100, 0), settings=chosen, actor_id=None, now=NOW)
    async with browser(database) as here:
        await here.sign_in()
        page = said(await here.page(HERE))
        assert "roles role 5: allowed True, daily_turns 9 by the guild" in page
        assert "max_chat_logs 6 by the guild" in page
        assert "channels 77 by the guild" in page
        assert "filter_words 1 by the guild" in page
        assert "rude" not in page
