"""/config model with the bot as a process between three fake engines: each guild is answered by the model it chose."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import select

from models.queries.scope import cross_tenant
from models.tables import Turn
from models.types import GuildSettings
from tests.discord.commands.command_kit import audited, refused, stored
from tests.discord.commands.config.panel_kit import choose, ids, opened, press, text_of
from tests.discord.harness import World, free_port, page, world
from tests.fakes.discord.server import Attachment, Guild, User
from tests.fakes.engine import FakeEngine
from tests.selection import POSTGRES


@asynccontextmanager
async def three_models(url: str, folder: Path, **settings: str) -> AsyncIterator[tuple[World, FakeEngine, FakeEngine]]:
    """The default model of a world, a large one and a small one, whose context is short and who has a key."""
    async with (
        FakeEngine(model="llama-70b") as large,
        FakeEngine(model="tiny", max_model_len=256, api_key="s3") as small,
    ):
        listed = f"large=llama-70b@{large.url.removesuffix('/v1')}; Small={small.url}"
        keys = {"MODELS": listed, "MODEL_API_KEYS": "Small=s3", **settings}
        async with world(url, folder, **keys) as here:
            yield here, large, small


@cross_tenant("a test")
async def _models(here: World) -> list[str | None]:
    """Of each turn, in their order."""
    async with here.database() as database, database.read() as session:
        return list(await session.scalars(select(Turn.model).order_by(Turn.id)))


@POSTGRES
async def test_each_guild_is_answered_by_the_model_that_it_chose(database_url: str, tmp_path: Path) -> None:
    async with three_models(database_url, tmp_path) as (here, large, small):
        guild, boss = await here.member("boss", manager=True)
        other, ann = await here.member("ann")
        choices = await here.discord.autocomplete(guild, boss, "config model", option="model", typed="")
        assert [(each["name"], each["value"]) for each in choices] == [
            ("default", "default"), ("large (llama-70b)", "large"), ("Small", "Small"),
        ]  # fmt: skip
        choices = await here.discord.autocomplete(guild, boss, "config model", option="model", typed="LLAMA")
        assert [each["value"] for each in choices] == ["large"]
        shown = (await here.use(guild, boss, "config model")).reply()
        assert "`model` **default** (the default)" in shown
        assert "- `large` (llama-70b)" in shown

        await here.ask(guild, boss, "one")
        used = await here.use(guild, boss, "config model", model="LARGE")
        assert "Saved. It answers from the next message on." in used.reply()
        assert "`model` **large** (chosen)" in used.reply()
        await here.ask(guild, boss, "two")
        await here.ask(other, ann, "hello")
        assert [request.last for request in here.engine.requests] == ["one", "hello"]
        [request] = large.requests
        assert request.body["model"] == "llama-70b"
        assert [message["content"] for message in request.messages[1:]] == ["one", "You said: one", "two"]
        assert await _models(here) == ["fake-model", "llama-70b", "fake-model"]

        used = await here.use(guild, boss, "config model", model="huge")
        assert refused(used, "offers no model `huge`. There are: `default`, `large`, `Small`.")
        panel = await opened(here, guild, boss)
        [menu] = ids(panel, "page")
        await here.discord.select(panel, boss, "replies", custom_id=menu)
        await here.discord.until(lambda: "**large** · chosen by this guild" in text_of(panel))
        await choose(here, panel, boss, "model", "Small")
        large.requests.clear()
        await here.ask(guild, boss, "three")
        [request] = small.requests  # with its key, and within its context
        assert request.body["model"] == "tiny"
        assert request.body["max_tokens"] < 256
        await press(here, panel, boss, "reset", "model")
        await here.ask(guild, boss, "four")
        assert here.engine.requests[-1].last == "four"
        assert not large.requests
        assert [row.details for row in await audited(here, guild)] == [
            {"model": {"old": "Small", "new": None}},
            {"model": {"old": "large", "new": "Small"}},
            {"model": {"old": None, "new": "large"}},
        ]
        log = here.bot.log()
        assert '"listed_models": ["large", "Small"]' in log
        assert "Traceback" not in log
        assert "s3" not in log


async def test_a_model_that_is_taken_off_the_list(sqlite_url: str, tmp_path: Path) -> None:
    """The default one answers; admins are told, and the log once."""
    port = str(free_port())
    async with three_models(sqlite_url, tmp_path, METRICS_PORT=port) as (here, large, _small):
        guild, boss = await here.member("boss", manager=True)
        await here.use(guild, boss, "config model", model="large")
        await here.ask(guild, boss, "one")
        numbers = await page(int(port))
        assert numbers.sum("guildllama_bot_turns_total", model="large", outcome="done") == 1
        assert numbers.sum("guildllama_bot_turns_total", model="default", outcome="done") == 0
        assert numbers.sum("guildllama_bot_model_up", model="Small") == 1
        file = await exported(here, guild, boss)
        assert file["settings"]["model"] == "large"
        await here.bot.stop()
        await here.start_bot(MODELS=f"Small={here.engine.url}", MODEL_API_KEYS="")
        for text in ("two", "three"):
            asked = await here.ask(guild, boss, text)
            assert asked.reply() == f"You said: {text}"
        assert [request.last for request in large.requests] == ["one"]
        log = here.bot.log()
        assert log.count("a guild has chosen a model that is not listed any more") == 1
        shown = (await here.use(guild, boss, "config show")).reply()
        assert "`model` **default** (large was chosen; the owner of this bot does not offer it any more)" in shown
        panel = await opened(here, guild, boss)
        [menu] = ids(panel, "page")
        await here.discord.select(panel, boss, "replies", custom_id=menu)
        await here.discord.until(lambda: "large: not offered any more, so default answers" in text_of(panel))
        await here.use(guild, boss, "config set", max_chat_logs=3)  # which does not touch the choice
        assert await stored(here, guild) == GuildSettings(max_chat_logs=3, model="large")
        await here.use(guild, boss, "config model", model="default")
        assert await stored(here, guild) == GuildSettings(max_chat_logs=3)
        asked = await here.use(guild, boss, "config import", file=Attachment("s.json", json.dumps(file).encode()))
        assert "Left as it is, since nothing of it exists here: `model`." in asked.reply()


async def exported(here: World, guild: Guild, boss: User) -> dict[str, dict[str, object]]:
    used = await here.use(guild, boss, "config export")
    found: dict[str, dict[str, object]] = json.loads(used.messages()[0].attachments[0].content)
    return found
