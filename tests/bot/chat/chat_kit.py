"""Small helpers of the tests of the chat service."""

from __future__ import annotations

from collections.abc import Callable

from bot.chat.chat_reply import ChatReply
from bot.chat.requests import ChatRequest
from bot.chat.service import ChatService
from models.types import DialogKey
from tests.fakes.engine import Request

ANN = DialogKey(guild_id=1, user_id=10)
BOB = DialogKey(guild_id=2, user_id=20)

MakeChat = Callable[..., ChatService]


async def ignore(piece: str, count: int = 1) -> None:
    """An `on_delta` or `on_piece` that shows nothing."""


async def say(chat: ChatService, text: str, key: DialogKey = ANN, **values: object) -> ChatReply:
    """Send one message and wait for its reply."""
    return await chat.chat(ChatRequest(key, text, **values), ignore)


def contents(request: Request) -> list[str]:
    """What the messages of a prompt say, without their roles."""
    return [message["content"] for message in request.messages]
