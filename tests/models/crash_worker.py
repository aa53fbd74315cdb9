"""A process that chats until it is killed, and records each reply that it acknowledged.

Run as `python crash_worker.py URL ACKS SEED` by test_crash.py. A line is added to the file ACKS after the finish
transaction has committed, alone or with others, where the bot would make the final edit of the message.
`GUILDLLAMA_CRASH_AT` names a failpoint at which the process kills itself.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from datetime import UTC, datetime
from functools import partial

from bot.failpoint import failpoint
from models import queries
from models.database import Database
from models.types import DialogKey, Place, TurnResult

WORKERS = 8


def place(key: DialogKey, interaction: int) -> Place:
    return Place(key.guild_id, 5, key.user_id, interaction, application_id=1, reply_token=f"token-{interaction}")


async def chat(database: Database, acks: int, rng: random.Random, key: DialogKey) -> None:
    number = 0
    while True:
        number += 1
        interaction = rng.getrandbits(60)
        text, reply = f"q {key.user_id} {number}", f"a {interaction}"

        turn = await database.run(
            partial(
                queries.begin_turn,
                key=key,
                text=text,
                limit=10,
                interaction_id=interaction,
                place=place(key, interaction),
                now=datetime.now(UTC),
            ),
            brief=True,
        )
        failpoint("after_begin_turn")
        await asyncio.sleep(rng.random() * 0.01)
        failpoint("before_finish")
        done = TurnResult(reply, 10, 5, "stop", 1, 2)
        remembered = await database.run(
            partial(queries.finish_turn, key=key, turn_id=turn.turn_id, result=done, now=datetime.now(UTC)), brief=True
        )
        failpoint("after_finish")
        if remembered:
            os.write(acks, f"{interaction}\n".encode())
        if rng.random() < 0.05:
            async with database.write() as session:
                await queries.end_dialog(session, key=key, now=datetime.now(UTC))


async def main(url: str, path: str, seed: int) -> None:
    acks = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    database = Database(url)
    print("ready", flush=True)  # noqa: T201 the parent process waits for this line
    rng = random.Random(seed)
    keys = [DialogKey(100 + number % 3, number) for number in range(WORKERS)]
    await asyncio.gather(*(chat(database, acks, random.Random(rng.random()), key) for key in keys))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
