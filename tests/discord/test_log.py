"""After a session in which much goes wrong, no word of members or of the model is in the log of bot and engine.

Nor is one in the numbers and traces of the bot.

Every text that a member writes has the same word in it: messages, personas, names, files, notes, searches, settings.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import text

from models.database import Database
from tests.bot.metric_values import Page
from tests.discord.harness import World, free_port, page, world
from tests.engine.server.process import GOLDEN, EngineProcess
from tests.fakes.collector import FakeCollector
from tests.fakes.discord.server import Attachment, Guild, User
from tests.selection import POSTGRES

WORD = "xyzzy"
REPLY = "plugh"
LONG = f"{WORD} " * 1000


async def talk(here: World, guild: Guild, ann: User) -> None:
    """Chats, and what can be done with them."""
    bot = here.discord.bot
    here.engine.reply(f"{REPLY} one")
    asked = await here.ask(guild, ann, f"{WORD} hello")
    here.engine.reply(f"{REPLY} two")
    await here.discord.press(asked.messages()[0], ann, label="Regenerate")
    await here.discord.until(lambda: "two" in asked.messages()[0].content and not asked.messages()[0].runs())
    form = await here.discord.press(asked.messages()[0], ann, label="Edit")
    await here.discord.done(form)
    await here.discord.submit(form, text=LONG[:3990])
    await here.discord.until(lambda: "You said" in asked.messages()[0].content and not asked.messages()[0].runs())
    form = await here.discord.press(asked.messages()[0], ann, label="Edit")
    await here.discord.done(form)
    await here.discord.done(await here.discord.submit(form, text=LONG))  # longer than is allowed
    files = {
        "txt": WORD.encode(),
        "zip": b"PK\3\4" + bytes(50),
        "pdf": b"%PDF-1.4 " + WORD.encode(),
        "png": b"\x89PNG\r\n\x1a\n" + bytes(50),
    }
    attached = [Attachment(f"{WORD}.{kind}", content) for kind, content in files.items()]
    said = await here.discord.say(guild, ann, f"<@{bot.id}> {WORD}", files=attached)
    [answer] = await here.discord.answered(said)
    await here.discord.react(answer, ann, "🔁")
    only = await here.discord.say(guild, ann, f"<@{bot.id}>", files=[Attachment(f"{WORD}.mp3", b"ID3" + bytes(50))])
    await here.discord.answered(only)
    form = await here.discord.menu(said, ann, "Ask about this")
    await here.discord.done(form)
    await here.discord.done(await here.discord.submit(form, question=f"{WORD}?"))


async def break_things(here: World, guild: Guild, ann: User) -> None:
    """Errors of the engine, of Discord and of the database, and what was not foreseen."""
    for fail in (
        lambda: here.engine.fail(400, f"this prompt cannot be rendered: {WORD}"),
        lambda: here.engine.fail(500, f"Traceback: {WORD}"),
        lambda: here.engine.fail(422, json.dumps({"input": WORD})),
        lambda: here.engine.drop(f"{REPLY} half"),
        lambda: here.engine.fail_in_stream(f"{REPLY} half", message=f"broken by {WORD}"),
        lambda: here.engine.reply(""),
    ):
        fail()
        await here.ask(guild, ann, f"{WORD} {len(here.engine.requests)}")
    here.discord.fail("PATCH", r"/messages/@original", status=400, code=50035, times=2)
    await here.discord.chat(guild, ann, f"{WORD} not shown")
    shown = here.discord.rest.directory.messages
    await here.discord.until(lambda: any(f"You said: {WORD} not" in each.content for each in shown.values()))
    here.discord.fail("POST", r"/callback", status=500, times=1)
    await here.discord.chat(guild, ann, f"{WORD} too late")


async def misuse(here: World, guild: Guild, boss: User, ann: User) -> None:
    """Commands whose arguments cannot be used, and forged ones."""
    for command, options in (
        ("persona show", {}),
        ("persona set", {"name": WORD, "prompt": LONG}),
        ("persona set", {"name": f"{WORD} unknown"}),
        ("persona edit", {"name": f"{WORD} unknown"}),
        ("persona delete", {"name": f"{WORD} unknown"}),
        ("persona tags", {"name": f"{WORD} unknown", "tags": WORD}),
        ("persona rollback", {"name": f"{WORD} unknown", "version": 3}),
        ("persona export", {"name": f"{WORD} unknown"}),
        ("scene add", {"name": f"{WORD} unknown"}),
        ("persona import", {"file": Attachment(f"{WORD}.json", json.dumps({"name": WORD, "spec": WORD}).encode())}),
        ("persona import", {"file": Attachment(f"{WORD}.png", WORD.encode())}),
        ("persona picture", {"name": f"{WORD} unknown", "file": Attachment(f"{WORD}.png", WORD.encode())}),
        ("config import", {"file": Attachment(f"{WORD}.json", WORD.encode())}),
        ("config import", {"file": Attachment("s.json", json.dumps({"guildllama_settings": 1, WORD: WORD}).encode())}),
        ("config set", {"idle_time": WORD}),
        ("config set", {"scope": WORD}),
        ("config set", {"language": WORD}),
        ("me persona set", {"name": f"{WORD} mine", "prompt": f"You are {WORD}."}),
        ("me persona set", {"name": f"{WORD} mine", "prompt": LONG}),
        ("me persona edit", {"name": f"{WORD} unknown"}),
        ("conversation new", {"name": f"{WORD} talk"}),
        ("conversation new", {"name": f"{WORD} talk"}),
        ("conversation switch", {"name": f"{WORD} unknown"}),
        ("conversation rename", {"name": WORD, "conversation": f"{WORD} unknown"}),
        ("conversation delete", {"name": f"{WORD} unknown"}),
        ("history search", {"text": WORD}),
        ("history search", {"text": LONG[:300]}),
        ("history show", {}),
        ("memory add", {"note": f"I like {WORD}"}),
        ("memory add", {"note": LONG[:900]}),
        ("memory forget", {"note": f"{WORD} unknown"}),
        ("thread start", {"name": WORD * 30}),
        ("chat", {"message": LONG}),
        ("chat", {"message": f"{WORD}\x00"}),
        ("privacy show", {}),
    ):
        used = await here.discord.force_command(
            guild.channel, guild, boss, here.discord.registered(command.split()[0])["id"], command, **options
        )
        await here.discord.done(used)
    made = await here.use(guild, boss, "persona set", name=f"{WORD} pirate", prompt=f"You are {WORD}.")
    message = made.messages()[0]
    forged = [f"{word}:{WORD}" for word in ("config", "mine", "me", "persona", "edit", "stop", "card", "history", WORD)]
    for custom_id in forged:
        await here.discord.force_component(message, ann, custom_id)
        await here.discord.force_component(message, boss, custom_id, kind=3, values=(WORD,))
    await here.discord.autocomplete(guild, boss, "persona edit", option="name", typed=WORD)
    panel = (await here.use(guild, boss, "config panel")).messages()[0]
    [idle] = [each for each in panel.buttons() if each["custom_id"].startswith(f"config:open:{boss.id}:idle_time")]
    form = await here.discord.press(panel, boss, custom_id=idle["custom_id"])
    await here.discord.done(form)
    await here.discord.done(await here.discord.submit(form, value=WORD))
    await here.ask(boss, boss, f"{WORD} at home")
    await here.use(boss, boss, "privacy export")


async def administer(here: World, guild: Guild, boss: User, ann: User) -> None:
    """What an admin types about a member, what a member reports, and words that are kept out."""
    asked = await here.ask(guild, ann, f"{WORD} bad")
    form = await here.discord.menu(asked.messages()[0], ann, "Report this answer")
    await here.discord.done(form)
    await here.discord.done(await here.discord.submit(form, reason=f"{WORD} is rude"))
    await here.use(guild, boss, "admin reports")
    await here.use(guild, boss, "admin block", member=ann, reason=f"{WORD} again")
    await here.ask(guild, ann, f"{WORD} blocked")
    await here.use(guild, boss, "admin unblock", member=ann)
    await here.use(guild, boss, "config filter words", action="add", words=f"{WORD}*, {REPLY}")
    await here.ask(guild, ann, f"{WORD} filtered")
    here.engine.reply(f"{REPLY} filtered")
    await here.ask(guild, ann, "harmless")
    await here.use(guild, boss, "config reset", setting="filter")
    await here.use(guild, boss, "admin audit")
    [question] = (await here.use(guild, boss, "admin purge", what="personas")).messages()
    form = await here.discord.press(question, boss, label="Delete")
    await here.discord.done(form)
    await here.discord.done(await here.discord.submit(form, typed=WORD))


async def refuse_statements(here: World) -> None:
    """Let the database refuse new turns, with values in its error where it gives any."""
    database = Database(here.database_url)
    statements = (
        ["ALTER TABLE turns ADD CONSTRAINT refuse CHECK (user_text = '') NOT VALID"]
        if here.database_url.startswith("postgres")
        else [f"CREATE TRIGGER refuse BEFORE INSERT ON turns BEGIN SELECT RAISE(ABORT, 'no {WORD[:3]}'); END"]
    )
    async with database.write() as session:
        for each in statements:
            await session.execute(text(each))
    await database.close()


@POSTGRES
async def test_no_word_of_a_member_is_logged(database_url: str, tmp_path: Path) -> None:
    """At INFO, which has what WARNING and ERROR have; each format of the log on one database."""
    form = "json" if database_url.startswith("sqlite") else "pretty"
    port = free_port()
    watched = {"METRICS_PORT": str(port), "LOG_FORMAT": form, "LOG_LEVEL": "INFO"}
    async with FakeCollector() as collector, world(database_url, tmp_path, TRACES_URL=collector.url, **watched) as here:
        boss, ann = here.discord.user(f"{WORD}boss"), here.discord.user(f"{WORD}ann")
        guild = here.discord.guild(f"{WORD} guild", managers=(boss,))
        await here.discord.join(guild)
        await here.use(guild, boss, "config memory on")
        await here.use(guild, boss, "memory on")
        await talk(here, guild, ann)
        await misuse(here, guild, boss, ann)
        await administer(here, guild, boss, ann)
        await break_things(here, guild, ann)
        await refuse_statements(here)
        await here.ask(guild, ann, f"{WORD} refused")
        numbers = await page(port)
        assert await here.bot.stop() == 0
        log = here.bot.log()
        assert "started" in log
        assert numbers.sum("guildllama_bot_turns_total", outcome="done") > 5
        assert numbers.sum("guildllama_bot_turns_total", outcome="error") >= 1  # what nobody foresaw
        assert len(collector.spans) > 50
        assert not any(each in sent.lower() for each in (WORD, REPLY) for sent in _texts(numbers, collector))
        assert len(log.splitlines()) > 40
        found = [line for line in log.splitlines() if WORD in line.lower() or REPLY in line.lower()]
        assert found == []
        assert not re.search(r"You said|cannot be rendered", log)


def _texts(numbers: Page, collector: FakeCollector) -> list[str]:
    return [numbers.text, *(body.decode(errors="replace") for body in collector.bodies)]


def test_no_word_of_a_prompt_is_in_the_engines_log(tmp_path: Path) -> None:
    """Chats, completions, tools, schemas and bodies that cannot be used."""
    with EngineProcess(
        "--model", str(GOLDEN / "llama2-tiny"), "--port", "0", "--device", "cpu", log=tmp_path / "engine.log"
    ) as engine:
        engine.ready()
        said = [{"role": "user", "content": f"{WORD} hello"}]
        tool = {"type": "function", "function": {"name": WORD, "parameters": {"type": WORD}}}
        schema = {"type": "json_schema", "json_schema": {"name": WORD, "schema": {"type": WORD, "pattern": f"({WORD}"}}}
        bodies: list[tuple[str, Any]] = [
            ("/v1/chat/completions", {"messages": said, "max_tokens": 4}),
            ("/v1/chat/completions", {"messages": said, "max_tokens": 4, "stream": True, "user": WORD}),
            ("/v1/chat/completions", {"messages": [{"role": WORD, "content": WORD}]}),
            ("/v1/chat/completions", {"messages": WORD}),
            ("/v1/chat/completions", {"messages": said, "tools": [tool], "max_tokens": 4}),
            ("/v1/chat/completions", {"messages": said, "temperature": WORD}),
            ("/v1/chat/completions", {"messages": said, WORD: WORD}),
            ("/v1/chat/completions", {"messages": said, "stop": [WORD], "max_tokens": 4}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": LONG * 20}]}),
            ("/v1/chat/completions", {"messages": said, "max_tokens": 4, "response_format": schema}),
            ("/v1/completions", {"prompt": WORD, "max_tokens": 4}),
            ("/v1/completions", {"prompt": {WORD: WORD}}),
            ("/v1/responses", {"input": WORD, "max_output_tokens": 4}),
            ("/v1/responses", {"input": [{"type": WORD}]}),
            ("/tokenize", {"messages": said}),
            (f"/v1/{WORD}", {}),
        ]  # fmt: skip
        with httpx.Client(base_url=engine.url, timeout=60) as client:
            answers = [client.post(path, json=body).status_code for path, body in bodies]
            client.post(
                "/v1/chat/completions", content=f'{{"messages": {WORD}', headers={"content-type": "application/json"}
            )
            client.post("/v1/chat/completions", content=WORD.encode() * 10, headers={"content-type": WORD})
            client.get(f"/health?{WORD}={WORD}")
        assert {200, 400} <= set(answers)
        assert "Traceback" not in engine.output
    assert WORD not in (tmp_path / "engine.log").read_text(errors="replace").lower()
