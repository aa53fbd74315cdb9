"""What the tests against servers of any shape share: one question, and its answer."""

from __future__ import annotations

from bot.engine_client.client import EngineClient
from bot.engine_client.messages import Delta, Finished, Message
from tests.fakes.engine.wire import Answer, WireServer

SECRET = "my hamster Zebedee sings at night"


async def ask(client: EngineClient, text: str = SECRET) -> tuple[str, Finished]:
    """The reply's text and its end."""
    said, end = "", None
    messages = [Message(role="user", content=text)]
    async for event in client.stream(
        messages, temperature=0.6, top_p=0.9, max_tokens=512, user="pseudonym-of-ann", cache_salt="salt-of-guild"
    ):
        if isinstance(event, Delta):
            said += event.text
        elif isinstance(event, Finished):
            end = event
    assert end is not None
    return said, end


async def ask_once(answer: Answer | bytes, text: str = SECRET) -> tuple[str, Finished]:
    """One question to a new server that answers so."""
    async with WireServer(answer) as server, EngineClient(server.url) as client:
        return await ask(client, text)
