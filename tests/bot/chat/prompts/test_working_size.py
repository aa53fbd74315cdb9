"""Refusals that name no limit: how soon prompts are sent that the server takes."""

from __future__ import annotations

from typing import Any

import pytest

from bot.chat.prompts.prompt import prompt_size
from bot.chat.prompts.working_size import FORGET_AFTER, WorkingSize
from models.database import Database
from models.types import DialogKey
from tests.bot.chat.chat_kit import ANN, BOB, say
from tests.bot.chat.test_foreign_servers import chatting, pairs
from tests.fakes.engine.wire import refusing
from tests.selection import diagonal

TOO_LONG = {"error": "the input length exceeds the context length"}


class Server:
    """Takes prompts up to a size, and counts what it refuses."""

    def __init__(self, size: int, status: int = 500, body: object = TOO_LONG) -> None:
        self.size, self.refused = size, 0
        self.answer = refusing(status, body, self.refuses)

    def refuses(self, sent: dict[str, Any]) -> bool:
        refused = prompt_size(sent["messages"]) > self.size
        self.refused += refused
        return refused


@pytest.mark.parametrize(
    ("database_url", "size"), diagonal(["sqlite", "postgres"], [500, 2000, 5000]), indirect=["database_url"]
)
async def test_attack_an_overflow_without_numbers_is_remembered(database: Database, size: int):
    server = Server(size)
    async with chatting(database, server.answer, max_chat_logs=100) as (chat, _):
        refused, kept = [], []
        for number in range(60):
            server.refused = 0
            reply = await say(chat, f"{number} " + "word " * (number * 7 % 50))
            refused.append(server.refused)
            kept.append(reply.pairs_in_prompt)
        assert sum(refused) <= 12
        assert max(refused) <= 6
        assert max(refused[-10:]) <= 1
        average = 2 * 16 + 2 + 3 + 5 * 25  # bytes of a pair
        assert kept[-1] >= 0.6 * (size - 300) / average - 1
        server.refused = 0
        await say(chat, "another member", BOB)
        assert server.refused == 0


async def test_attack_what_was_not_understood_shortens_nobody_elses_prompts(database: Database):
    dislikes = Server(300, 400, {"error": "this text pleases me not"})
    async with chatting(database, dislikes.answer) as (chat, server):
        for number in range(12):
            dislikes.refused = 0
            assert (await say(chat, f"{number} " + "word " * 9)).text == "ok"
            assert dislikes.refused <= 3
        assert dislikes.refused <= 1
        server.answer = refusing(400, "", lambda sent: False)
        other = DialogKey(1, 99)
        for number in range(12):
            await say(chat, f"{number} " + "word " * 9, other)
        assert pairs(server.bodies[-1]) == 10
        await say(chat, "me again", ANN)
        assert pairs(server.bodies[-1]) < 10


def test_a_working_size_is_forgotten_after_a_while():
    now = 0.0
    known = WorkingSize(lambda: now)
    known.accepted(5000)
    assert known.limit(10**9) is None
    known.refused(1000)
    assert known.limit(999) is None
    assert known.limit(1000) == 500
    known.accepted(500)
    assert known.limit(5000) == 750
    known.accepted(950)
    assert known.limit(5000) == 950
    known.refused(700)  # a text with more tokens
    assert known.limit(700) == 350
    now = FORGET_AFTER
    assert known.limit(10**9) is None
