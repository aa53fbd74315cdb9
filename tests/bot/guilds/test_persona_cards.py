"""Cards in the libraries of personas: what is stored, sealed, edited, exported, and answered with."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from cryptography.fernet import Fernet
from sqlalchemy import text as sql

from bot.characters.card import CharacterCard, read_card
from bot.characters.files.export import export_json
from bot.characters.files.reading import read_file
from bot.chat.service import ChatService
from bot.engine_client.client import EngineClient
from bot.errors import Hint, PersonaExists, PersonaTooLong
from bot.guilds.personas import PersonaService
from bot.settings import Settings
from models.database import Database
from models.types import DialogKey
from tests.bot.chat.chat_kit import MakeChat, say
from tests.fakes.engine import FakeEngine

ANN, BOB = DialogKey(1, 10), DialogKey(1, 20)
ELSEWHERE = DialogKey(2, 10)
PICTURE = b"\x89PNG\r\n\x1a\nMARKER"


def card(**fields: Any) -> CharacterCard:
    data = {"name": "Mira", "description": "A miller called {{char}}.", "tags": ["cosy", "x" * 50], **fields}
    return read_card({"spec": "chara_card_v3", "spec_version": "3.0", "data": data})


@pytest.fixture
def service(database: Database, client: EngineClient) -> PersonaService:
    return PersonaService(database, client, Settings(_env_file=None))


async def test_an_import_is_a_persona_with_a_version_a_card_and_a_picture(service: PersonaService) -> None:
    first = await service.cards.store(ANN, card(), own=False, name="Mira", picture=PICTURE, actor_id=10)
    assert (first.name, first.active_version, first.tags) == ("Mira", 1, ("cosy",))
    with pytest.raises(PersonaExists):
        await service.cards.store(ANN, card(), own=False, name="MIRA", actor_id=10)
    second = await service.cards.store(
        ANN, card(description="A baker."), own=False, name="mira", replace=True, actor_id=10
    )
    assert (second.persona_id, second.active_version) == (first.persona_id, 2)
    exported = await service.cards.export(ANN, second, own=False, form="json")
    assert json.loads(exported.data)["data"]["description"] == "A baker."
    await service.library.rollback(ANN, first.persona_id, 1, own=False, actor_id=10)
    back = await service.library.get(ANN, first.persona_id, own=False)
    data = (await service.cards.export(ANN, back, own=False, form="json")).data
    assert json.loads(data) == json.loads(export_json(card().raw))


async def test_an_edited_text_keeps_the_card_and_is_what_an_export_says(service: PersonaService) -> None:
    stored = await service.cards.store(ANN, card(first_mes="Hi", extensions={"a": 1}), own=True, name="M", actor_id=10)
    edited, _ = await service.library.edit(ANN, stored.persona_id, "You are a baker.", own=True, actor_id=10)
    read = read_file((await service.cards.export(ANN, edited, own=True, form="json")).data).card
    assert (read.system_prompt, read.description, read.greetings) == ("You are a baker.", "", ("Hi",))
    assert read.raw["data"]["extensions"] == {"a": 1}


async def test_a_persona_that_is_no_card_becomes_one(service: PersonaService) -> None:
    plain, _ = await service.library.create(ANN, "Bob @everyone/..", "You are Bob.", own=False, actor_id=10)
    file = await service.cards.export(ANN, plain, own=False, form="png")
    read = read_file(file.data).card
    assert (read.name, read.system_prompt) == ("Bob @everyone/..", "You are Bob.")


async def test_an_export_fits_where_it_is_sent(service: PersonaService) -> None:
    big = card(extensions={"x": "y" * 100_000})
    stored = await service.cards.store(ANN, big, own=True, name="Mira", actor_id=10)
    small = await service.cards.export(ANN, stored, own=True, form="png", max_bytes=200_000)
    assert (b"ccv3" in small.data, b"chara\0" in small.data) == (True, False)
    whole = await service.cards.export(ANN, stored, own=True, form="png")
    assert b"chara\0" in whole.data
    with pytest.raises(Hint, match="as JSON it is smaller"):
        await service.cards.export(ANN, stored, own=True, form="png", max_bytes=100_000)


async def test_a_library_is_closed_to_all_others(service: PersonaService, database: Database) -> None:
    own = await service.cards.store(ANN, card(), own=True, name="Mine", picture=PICTURE, actor_id=10)
    guild = await service.cards.store(ANN, card(), own=False, name="Ours", picture=PICTURE, actor_id=10)
    for key, is_own, persona in (
        (BOB, True, own),
        (ELSEWHERE, True, own),
        (ELSEWHERE, False, guild),
        (ANN, False, own),
    ):
        with pytest.raises(Exception, match="deleted"):
            await service.cards.export(key, persona, own=is_own, form="png")


async def test_limits_hold_for_what_every_prompt_has(service: PersonaService, engine: FakeEngine) -> None:
    long = card(description="x" * 23_000, post_history_instructions="y" * 2_000)
    with pytest.raises(PersonaTooLong):
        await service.cards.store(ANN, long, own=False, name="Mira", actor_id=10)
    assert await service.library.find(ANN, "Mira", own=False) is None
    many = card(mes_example="<START>\n{{char}}: " + "x" * 30_000, first_mes="y" * 7_000)  # in no prompt without room
    assert await service.cards.store(ANN, many, own=False, name="Mira", actor_id=10)


async def test_two_imports_at_once_make_two_versions_or_one_refusal(service: PersonaService) -> None:
    replacing = [
        service.cards.store(ANN, card(), own=False, name="Mira", replace=True, actor_id=10) for _ in range(4)
    ]  # fmt: skip
    stored = await asyncio.gather(*replacing, return_exceptions=True)
    made = [each for each in stored if not isinstance(each, BaseException)]
    assert made
    assert all(isinstance(each, PersonaExists) for each in stored if isinstance(each, BaseException))
    assert len({each.persona_id for each in made}) == 1
    versions = await service.library.versions(ANN, made[0].persona_id, own=False)
    assert sorted(each.version for each in versions) == list(range(1, len(made) + 1))


async def test_a_character_answers_with_its_greeting_and_remembers_it(
    service: PersonaService, make_chat: MakeChat, engine: FakeEngine
) -> None:
    mira = card(
        first_mes="Come in, {{user}}.",
        alternate_greetings=["Closed, {{user}}."],
        post_history_instructions="Stay at the mill.",
        mes_example="<START>\n{{user}}: Flour?\n{{char}}: Plenty.",
        character_book={"entries": [{"keys": ["flour"], "content": "Flour is white.", "enabled": True}]},
    )
    stored = await service.cards.store(ANN, mira, own=False, name="Mira", greeting=1, actor_id=10)
    assert await service.assign(ANN, "guild", stored.persona_id, actor_id=10)
    chat = make_chat()
    engine.reply("Hello there.")
    first = await say(chat, "Hi", name="Ann")
    assert first.text == "Closed, Ann.\n\nHello there."
    prompt = [message["content"] for message in engine.requests[-1].messages]
    assert prompt[1:5] == ["[Example]\nFlour?", "Plenty.", "(The conversation begins.)", "Closed, Ann."]
    assert "Stay at the mill." in prompt[5]
    assert "Flour is white." not in prompt[5]
    engine.reply("White it is.")
    second = await say(chat, "What is flour?", name="Ann")
    assert second.text == "White it is."
    assert second.pairs_in_prompt == 1
    prompt = [message["content"] for message in engine.requests[-1].messages]
    assert prompt[3:5] == ["Hi", "Closed, Ann.\n\nHello there."]
    assert "Flour is white.\n\nStay at the mill." in prompt[5]
    engine.reply("Elsewhere.")
    assert (await say(chat, "Hi", key=ELSEWHERE, name="Ann")).text == "Elsewhere."


async def test_examples_make_room_for_what_was_really_said(database: Database) -> None:
    lines = "".join(f"<START>\n{{{{user}}}}: {'why ' * 20}\n{{{{char}}}}: example {number}\n" for number in range(20))
    async with FakeEngine(max_model_len=600) as small, EngineClient(small.url) as client:
        settings = Settings(_env_file=None, max_reply_tokens=50, max_chat_logs=50)
        service = PersonaService(database, client, settings)
        stored = await service.cards.store(ANN, card(mes_example=lines), own=False, name="Mira", actor_id=10)
        await service.assign(ANN, "guild", stored.persona_id, actor_id=10)
        chat = ChatService(database=database, engine=client, settings=settings)
        kept: list[int] = []
        for number in range(12):
            small.reply("word " * 20)
            reply = await say(chat, f"Question {number} " + "and " * 20, name="Ann")
            sent = [message["content"] for message in small.requests[-1].messages]
            kept.append(sum(content.startswith("[Example]") for content in sent))
            assert reply.pairs_in_prompt == sum(content.startswith("Question") for content in sent) - 1
            assert kept[-1] == 0 or reply.pairs_in_prompt == number  # no pair goes before the last example
        assert kept[0] > 5
        assert kept == sorted(kept, reverse=True)
        assert kept[-1] == 0
        await chat.close(0)


async def test_the_card_and_the_picture_are_sealed(database_url: str, client: EngineClient) -> None:
    database = Database(database_url, encryption_keys=(Fernet.generate_key().decode(),))
    service = PersonaService(database, client, Settings(_env_file=None))
    mira = card(first_mes="SECRET")
    stored = await service.cards.store(ANN, mira, own=True, name="M", picture=PICTURE, actor_id=10)
    async with database.read() as session:
        rows = await session.execute(sql("SELECT prompt, card, content FROM persona_versions, persona_pictures"))
        [row] = rows.all()
    assert all(column.startswith("\x02f:") for column in row)
    assert b"SECRET" in (await service.cards.export(ANN, stored, own=True, form="json")).data
    await database.close()
