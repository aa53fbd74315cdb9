"""The prompt of a stored turn, built again: the engine's own request is what it must equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import text as sql

from bot.attachments.types import ImageInput
from bot.characters.card import CharacterCard, read_card
from bot.chat.chat_reply import ChatReply
from bot.chat.prompts.rebuild import RebuiltPrompt, rebuild
from bot.chat.requests import ChatRequest
from bot.chat.service import ChatService
from bot.engine_client.client import EngineClient
from bot.guilds.personas import PersonaService
from bot.settings import Settings
from models import queries
from models.database import Database
from models.maintenance.rekey import rekey
from models.queries.dialogs.prompt_parts import prompt_parts
from models.queries.memory import facts
from models.queries.tenants.member_settings import set_member_memory
from models.types import DialogKey, GuildSettings, OutgoingMessage, PersonaScope, Place, StoredFile
from tests.bot.chat.chat_kit import ignore, say
from tests.fakes.engine import FakeEngine

ANN = DialogKey(1, 10)
SHARED = DialogKey(1, 10, 5, shared=True)
NOW = datetime.now(UTC)
CARD = {
    "name": "Mira",
    "description": "{{char}} is a miller, and {{user}} knows her.",
    "first_mes": "Welcome, {{user}}. It is {{random:noon,dusk,dawn}}.",
    "mes_example": "<START>\n{{user}}: Flour?\n{{char}}: Plenty.\n<START>\n{{user}}: Bread?\n{{char}}: Soon.",
    "post_history_instructions": "Roll {{roll:d20}}.",
    "character_book": {
        "scan_depth": 6,
        "entries": [
            {"keys": ["wind"], "content": "The wind is {{random:east,west,north}}.", "enabled": True,
             "insertion_order": 1, "extensions": {}},
            {"keys": ["river"], "content": "The river is low.", "enabled": True, "insertion_order": 2,
             "extensions": {"position": 4, "depth": 4}},
        ],
        "extensions": {},
    },
}  # fmt: skip


class Kit:
    """A chat service, and the terminal's look at what it stored."""

    def __init__(self, database: Database, engine: FakeEngine, client: EngineClient, make: Callable[..., ChatService]):
        self.database, self.engine, self.make = database, engine, make
        self.personas = PersonaService(database, client, Settings(_env_file=None))
        self.chat = make()

    def sent(self) -> list[dict[str, Any]]:
        return list(self.engine.requests[-1].messages)

    async def again(self, reply: ChatReply) -> RebuiltPrompt:
        async with self.database.read() as session:
            parts = await prompt_parts(session, turn_id=reply.turn_id)
        assert parts is not None
        # Another process, with other settings than those of the chat.
        return await rebuild(parts, Settings(_env_file=None, persona="Something else.", max_chat_logs=1))

    async def exact(self, reply: ChatReply) -> RebuiltPrompt:
        """The prompt of the last request of the engine, which must be the same."""
        prompt = await self.again(reply)
        assert list(prompt.messages) == self.sent()
        assert (prompt.exact, prompt.differences) == (True, ())
        return prompt

    async def differences(self, reply: ChatReply) -> tuple[str, ...]:
        prompt = await self.again(reply)
        assert not prompt.exact
        return prompt.differences

    async def mira(self, key: DialogKey = ANN, **fields: Any) -> int:
        data = {**CARD, **fields}
        card: CharacterCard = read_card({"spec": "chara_card_v3", "spec_version": "3.0", "data": data})
        entry = await self.personas.cards.store(key, card, own=False, name="Mira", actor_id=10)
        async with self.database.write() as session:
            persona_id = entry.persona_id
            await queries.assign_persona(session, key=key, level="guild", persona_id=persona_id, set_by=None, now=NOW)
        return persona_id

    async def remember(self, *texts: str) -> tuple[int, ...]:
        async with self.database.write() as session:
            chosen = GuildSettings(memory=True)
            await queries.set_guild_settings(session, key=ANN, settings=chosen, actor_id=None, now=NOW)
            await set_member_memory(session, key=ANN, memory=True, now=NOW)
            for text in texts:
                await facts.add_fact(session, key=ANN, text=text, now=NOW)
            return tuple(fact.fact_id for fact in await facts.facts_of(session, key=ANN))


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """SQLite, and for some tests Postgres too: most are not about queries."""
    return str(request.getfixturevalue(f"{getattr(request, 'param', 'sqlite')}_url"))


BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def kit(database: Database, engine: FakeEngine, client: EngineClient, make_chat: Callable[..., ChatService]) -> Kit:
    return Kit(database, engine, client, make_chat)


@BOTH
async def test_the_default_prompt_of_that_time_and_pairs(kit: Kit) -> None:
    replies = [await say(kit.chat, "Hello")]
    await kit.exact(replies[0])
    replies.append(await say(kit.chat, "And now?"))
    await kit.exact(replies[1])
    async with kit.database.write() as session:
        assert await queries.forget_turn(session, key=ANN, turn_id=replies[0].turn_id)
    assert await kit.differences(replies[1]) == ("1 of 1 pairs of the conversation are gone",)


@BOTH
async def test_a_persona_that_is_edited_renamed_and_deleted_later(kit: Kit) -> None:
    text = "You are {{char}}, who talks with {{user}}."
    async with kit.database.write() as session:
        persona = await queries.set_persona(
            session, key=ANN, level="guild", name="Bob", prompt=text, author_id=None, now=NOW
        )
    reply = await say(kit.chat, "Hello", name="Ann")
    await kit.personas.library.edit(ANN, persona.persona_id, "New.", own=False, actor_id=10)
    await kit.personas.library.rename(ANN, persona.persona_id, "Rob", own=False, actor_id=10)
    prompt = await kit.exact(reply)
    assert prompt.messages[0]["content"] == "You are Bob, who talks with Ann."
    await kit.personas.library.delete(ANN, persona.persona_id, own=False, actor_id=10)
    assert await kit.differences(reply) == (f"version 1 of persona {persona.persona_id} is gone",)


async def test_a_shared_dialog_with_names(kit: Kit) -> None:
    bob = replace(SHARED, user_id=20)
    await say(kit.chat, "Hello [speaker: Eve] there", SHARED, author="Ann", name="Ann")
    reply = await say(kit.chat, "And I am here", bob, author="Ann", name="Ann")
    prompt = await kit.exact(reply)
    assert str(prompt.messages[-1]["content"]).startswith("[speaker: Ann (2)]")


async def test_a_character_with_lore_examples_and_greeting(kit: Kit) -> None:
    persona_id = await kit.mira()
    first = await say(kit.chat, "The wind and the river?", name="Ann")
    prompt = await kit.exact(first)
    assert any("Welcome, Ann." in str(message["content"]) for message in prompt.messages)
    await say(kit.chat, "Hm", name="Ann")
    third = await say(kit.chat, "Well", name="Ann")
    assert "The wind is" in str((await kit.exact(third)).messages)
    assert "The river is low" in str((await kit.again(third)).messages)
    assert (await kit.again(first)).exact, "as long as nothing changes, later ones do not matter"
    await kit.personas.library.delete(ANN, persona_id, own=False, actor_id=10)
    assert (await kit.differences(first))[0] == f"version 1 of persona {persona_id} is gone"


@BOTH
async def test_notes_of_memory_and_what_became_of_them(kit: Kit) -> None:
    ids = await kit.remember("The user likes tea.", "The user sails.", "The user has a dog.")
    reply = await say(kit.chat, "What about my dog, and tea?")
    await kit.exact(reply)
    async with kit.database.write() as session:
        await facts.edit_fact(session, key=ANN, fact_id=ids[0], text="The user has a cat.", now=NOW)
        await facts.forget_fact(session, key=ANN, fact_id=ids[1])
    assert set(await kit.differences(reply)) == {f"fact {ids[0]} was changed", f"fact {ids[1]} was forgotten"}


async def test_a_summary_is_kept_until_a_pair_in_it_goes(kit: Kit) -> None:
    await kit.remember()
    chat = kit.make(max_chat_logs=2)
    replies = [await say(chat, f"Message {number}") for number in range(4)]
    async with kit.database.write() as session:
        dialog_id = await session.scalar(sql("SELECT dialog_id FROM turns"))
        await session.execute(
            sql(
                "INSERT INTO dialog_summaries (dialog_id, from_turn_id, to_turn_id, text, created_at) "
                "VALUES (:dialog, :first, :last, 'They met.', CURRENT_TIMESTAMP)"
            ),
            {"dialog": dialog_id, "first": replies[0].turn_id, "last": replies[1].turn_id},
        )
    reply = await say(chat, "And then?")
    assert "They met." in str((await kit.exact(reply)).messages[0]["content"])
    async with kit.database.write() as session:
        await queries.forget_turn(session, key=ANN, turn_id=replies[0].turn_id)
    (difference,) = await kit.differences(reply)
    assert difference.endswith("was replaced or forgotten")


async def test_pairs_that_were_left_out(kit: Kit) -> None:
    await kit.mira()
    chat = kit.make(max_reply_tokens=10, trim_step=2, max_chat_logs=4)
    kit.engine.context = kit.engine.max_model_len = 230
    seen = set()
    for number in range(7):
        reply = await say(chat, f"Some words about the wind, {number}. " + "word " * 12, name="Ann")
        await kit.exact(reply)
        async with kit.database.read() as session:
            parts = await prompt_parts(session, turn_id=reply.turn_id)
        assert parts is not None
        seen.add((parts.record.num_examples, parts.record.num_pairs))
    assert min(examples for examples, _ in seen) == 0, "examples were left out"
    assert max(pairs for _, pairs in seen) > 0


async def test_files_that_were_cut_twice_over(kit: Kit) -> None:
    kit.engine.context = kit.engine.max_model_len = 400
    chat = kit.make(max_reply_tokens=50)
    files = tuple(StoredFile(f"{n}.txt", "\n".join(f"line {n} {i}" for i in range(300))) for n in range(2))
    reply = await say(chat, "What is this?", files=files)
    prompt = await kit.exact(reply)
    assert "cut after" in str(prompt.messages[-1]["content"])


async def test_a_reply_that_was_continued(kit: Kit) -> None:
    await kit.mira()
    first = await say(kit.chat, "Tell me", name="Ann")
    request = ChatRequest(ANN, "", turn_id=first.turn_id, name="Ann")
    await kit.chat.continue_reply(request, ignore)
    prompt = await kit.exact(first)
    assert prompt.messages[-1]["role"] == "assistant"
    assert "Welcome" in str(prompt.messages[-1]["content"])


@BOTH
async def test_a_reply_that_was_written_again(kit: Kit) -> None:
    await say(kit.chat, "Hello")
    second = await say(kit.chat, "And now?")
    async with kit.database.write() as session:
        await queries.set_persona(
            session, key=ANN, level="guild", name="Bob", prompt="You are Bob.", author_id=None, now=NOW
        )
    await kit.chat.regenerate(ChatRequest(ANN, "", turn_id=second.turn_id), ignore)
    assert (await kit.exact(second)).messages[0]["content"] == "You are Bob."
    async with kit.database.write() as session:
        assert await queries.select_variant(session, key=ANN, turn_id=second.turn_id, position=1)
    async with kit.database.read() as session:
        parts = await prompt_parts(session, turn_id=second.turn_id)
    assert parts is not None
    assert not parts.is_newest_reply
    await kit.exact(second)


async def test_a_first_reply_with_its_greeting_written_again(kit: Kit) -> None:
    await kit.mira()
    first = await say(kit.chat, "Hello", name="Ann")
    await kit.chat.regenerate(ChatRequest(ANN, "", turn_id=first.turn_id, name="Anna"), ignore)
    assert "Welcome, Anna." in str((await kit.exact(first)).messages)


async def test_a_message_that_was_edited(kit: Kit) -> None:
    await say(kit.chat, "Hello")
    second = await say(kit.chat, "And noow?")
    edited = await say(kit.chat, "And now?", turn_id=second.turn_id)
    assert len((await kit.exact(edited)).messages) == 4


@BOTH
@pytest.mark.parametrize("shared", [False, True])
async def test_the_first_message_of_a_thread_has_the_pair_above_it(kit: Kit, shared: bool) -> None:
    place = Place(guild_id=1, channel_id=5, asker_id=10, nonce=1)
    key = SHARED if shared else ANN
    author = "Ann" if shared else None
    above = await say(
        kit.chat, "Hello", key, author=author, place=place, messages=lambda text, _: (OutgoingMessage(text),)
    )
    async with kit.database.write() as session:
        await session.execute(sql("UPDATE delivery_messages SET message_id = 77"))
    thread = replace(SHARED, channel_id=77)
    reply = await say(kit.chat, "And here?", thread, author="Ann")
    assert [message["role"] for message in (await kit.exact(reply)).messages] == ["system", "user", "assistant", "user"]
    await kit.exact(await say(kit.chat, "Again", thread, author="Ann"))
    async with kit.database.write() as session:
        assert await queries.forget_turn(session, key=key, turn_id=above.turn_id)
    assert await kit.differences(reply) == ("1 of 1 pairs of the conversation are gone",)


async def test_a_pair_whose_reply_is_another_one_now(kit: Kit) -> None:
    first = await say(kit.chat, "Hello")
    second = await say(kit.chat, "And now?")
    kit.engine.reply("Something new")
    await kit.chat.regenerate(ChatRequest(ANN, "", turn_id=first.turn_id), ignore)
    (difference,) = await kit.differences(second)
    assert difference.startswith(f"the reply of turn {first.turn_id} was changed")


@BOTH
async def test_what_is_recorded_is_sealed_and_stays_readable_with_another_key(
    kit: Kit, database_url: str, client: EngineClient
) -> None:
    old, new = Fernet.generate_key().decode(), Fernet.generate_key().decode()
    sealed = Database(database_url, encryption_keys=(old,))
    chat = ChatService(database=sealed, engine=client, settings=Settings(_env_file=None, persona="For {{user}}."))
    reply = await say(chat, "Hello", name="Ann")
    await chat.close(0)
    await sealed.close()
    async with kit.database.read() as session:
        stored = (await session.execute(sql("SELECT digest, inputs FROM turn_prompts"))).one()
    assert not any("Ann" in column or len(column) == 64 for column in stored)
    both = Database(database_url, encryption_keys=(new, old))
    await rekey(both)
    await both.close()
    kit.database = Database(database_url, encryption_keys=(new,))
    assert (await kit.exact(reply)).messages[0]["content"] == "For Ann."
    await kit.database.close()


async def test_a_scene_whose_characters_have_changed_since(kit: Kit) -> None:
    library, scope = kit.personas.library, PersonaScope(channel_id=5)
    anne, _ = await library.create(ANN, "Anne", "You are Anne.", own=False, actor_id=10)
    jack, _ = await library.create(ANN, "Jack", "You are Jack.", own=False, actor_id=10)
    for each in (anne, jack):
        await kit.personas.scenes.add(ANN, 5, each.persona_id, actor_id=10)
    replies = [
        await kit.chat.chat(ChatRequest(ANN, words, persona_scope=scope), ignore)
        for words in ("Hello Jack", "And Anne?", "What does Jack say?")
    ]
    sent = kit.sent()
    assert "You are Jack." in sent[0]["content"]
    await library.rename(ANN, anne.persona_id, "Annette", own=False, actor_id=10)
    await kit.personas.scenes.remove(ANN, 5, jack.persona_id, actor_id=10)
    await kit.exact(replies[-1])


async def test_pictures_are_not_kept(kit: Kit) -> None:
    kit.engine.images = "seen"
    image = ImageInput("cat.png", "image/png", b"\x89PNG")
    reply = await say(kit.chat, "Look", images=(image,), files=(StoredFile("cat.png", "", "a picture"),))
    assert await kit.differences(reply) == ("1 picture of the message, which are not kept",)
