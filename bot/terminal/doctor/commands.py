"""The commands that this version would register, compared with those that Discord has. Starts and stores nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bot.chat.service import ChatService
from bot.discord_app.registration.command_sync import differing_commands
from bot.engine_client.model_list import ModelList
from bot.guilds.personas import PersonaService
from bot.safety.content import ContentFilters
from bot.services import Services, external_engine
from bot.settings import Settings
from bot.shard_client import make_bot
from bot.storage import open_database

_NO_DATABASE = "sqlite:////nonexistent/guildllama.db"


async def differing_from(settings: Settings, registered: Sequence[Mapping[str, object]]) -> tuple[str, ...]:
    """The names of those that differ. The services behind the commands exist, and are never called."""
    unused = settings.model_copy(update={"database_url": _NO_DATABASE, "encryption_keys": None, "engine_url": None})
    database = open_database(unused)
    filters = ContentFilters(unused)
    try:
        async with external_engine(unused) as engine:
            chat = ChatService(database=database, engine=engine, settings=unused)
            models, personas = ModelList(engine), PersonaService(database, engine, unused)
            services = Services(unused, database, models, None, chat, personas)
            bot, _ = make_bot(services, unused, filters, on_login=_never)
            async with bot:
                commands = await bot.would_register()
    finally:
        await filters.close()
        await database.close()
    return differing_commands(commands, registered)


async def _never(application_id: int) -> None:
    raise AssertionError("the doctor's bot does not log in")
