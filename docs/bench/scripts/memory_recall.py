"""How many planted facts a model still knows after a long dialog, with and without memory.

    python docs/bench/scripts/memory_recall.py http://127.0.0.1:8000/v1

Stores the scripted dialog of memory_dialog.py, lets the server's model write the memory as the bot does, then asks
the questions, each as the next message of the dialog and then forgotten again. Prints one JSON line for each way.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from memory_dialog import QUESTIONS, TURNS

from bot.chat.requests import ChatRequest
from bot.chat.service import ChatService
from bot.engine_client.client import EngineClient
from bot.memory.writer import MemoryWriter
from bot.settings import Settings
from models import queries
from models.database import Database
from models.migrate import upgrade
from models.queries.memory import facts, summaries, work
from models.queries.tenants.member_settings import set_member_memory
from models.types import DialogKey, TurnResult

KEY = DialogKey(0, 7)
PERSONA = "You are a helpful assistant. Answer briefly."


async def store_dialog(database: Database) -> None:
    """The scripted dialog, one pair a minute."""
    begin = datetime.now(UTC) - timedelta(minutes=len(TURNS) + 1)
    for number, (text, reply) in enumerate(TURNS):
        at = begin + timedelta(minutes=number)
        async with database.write() as session:
            turn = await queries.begin_turn(session, key=KEY, text=text, limit=0, now=at)
            result = TurnResult(reply, 1, 1, "stop", 1, 1)
            await queries.finish_turn(session, key=KEY, turn_id=turn.turn_id, result=result, now=at)
    async with database.write() as session:
        await set_member_memory(session, key=KEY, memory=True, now=begin)


async def write_memory(database: Database, engine: EngineClient, settings: Settings) -> dict[str, object]:
    """Let the memory be written until nothing is due."""
    writer = MemoryWriter(database=database, engine=engine, settings=settings)
    started = time.perf_counter()
    while True:
        now = datetime.now(UTC)
        async with database.read() as session:
            tasks = await work.dialogs_to_remember(session, active_after=now - timedelta(days=1), limit=9, now=now)
        due = [task for task in tasks if writer.is_due(task, now)]
        if not due:
            break
        await writer.work_on(due[0])
    async with database.read() as session:
        known = await facts.facts_of(session, key=KEY)
        summary = await summaries.summary_of(session, key=KEY)
    for fact in reversed(known):
        sys.stderr.write(f"  {fact.text}\n")
    sys.stderr.write(f"{summary.text if summary else ''}\n")
    return {"write_s": round(time.perf_counter() - started, 1), "facts": len(known)}


async def ask_all(database: Database, engine: EngineClient, settings: Settings) -> dict[str, object]:
    """Ask each question; how many answers are right, and what they cost."""
    chat = ChatService(database=database, engine=engine, settings=settings)
    right, tokens, seconds = 0, 0, 0.0
    for question, wanted in QUESTIONS:
        started = time.perf_counter()
        reply = await chat.chat(ChatRequest(KEY, question), on_delta=_ignore)
        seconds += time.perf_counter() - started
        tokens += reply.prompt_tokens
        good = any(each in reply.text.lower() for each in wanted)
        right += good
        sys.stderr.write(f"{'+' if good else '-'} {question} {' '.join(reply.text.split())[:90]}\n")
        await chat.dialogs.forget(KEY, 1)
    await chat.close(0)
    count = len(QUESTIONS)
    return {"right": right, "of": count, "prompt_tokens": tokens // count, "seconds": round(seconds / count, 2)}


async def _ignore(piece: str) -> None:
    """Nobody reads along."""


async def main(url: str) -> None:
    """Measure one server."""
    with tempfile.TemporaryDirectory() as folder:
        database_url = f"sqlite:///{Path(folder) / 'recall.db'}"
        upgrade(database_url)
        database = Database(database_url)
        await store_dialog(database)
        given: dict[str, Any] = {"persona": PERSONA, "temperature": 0, "max_reply_tokens": 60}
        async with EngineClient(url) as engine:
            settings = Settings(_env_file=None, **given)
            model = {"model": await engine.model()}
            without = Settings(_env_file=None, memory=False, **given)
            print_line({**model, "memory": False, **await ask_all(database, engine, without)})
            written = await write_memory(database, engine, settings)
            print_line({**model, "memory": True, **written, **await ask_all(database, engine, settings)})
        await database.close()


def print_line(figures: dict[str, object]) -> None:
    """One line of results."""
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
