"""Small helpers of the tests of the chat service."""

from __future__ import annotations

from collections.abc import Callable

from bot.chat.service import ChatReply, ChatRequest, ChatService
from models.types import DialogKey
from tests.fakes.engine import Request

ANN = DialogKey(guild_id=1, user_id=10)
BOB = DialogKey(guild_id=2, user_id=20)

MakeChat = Callable[..., ChatService]


async def say(chat: ChatService, text: str, key: DialogKey = ANN, **values: object) -> ChatReply:
    async def ignore(piece: str) -> None:
        pass

    return await chat.chat(ChatRequest(key, text, **values), ignore)


def contents(request: Request) -> list[str]:
    return [message["content"] for message in request.messages]
