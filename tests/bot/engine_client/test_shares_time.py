"""Which servers share their time among tenants: those that say that they are ours."""

from __future__ import annotations

import pytest

from bot.engine_client.client import EngineClient
from tests.bot.chat.chat_kit import MakeChat, say
from tests.fakes.engine import FakeEngine


@pytest.mark.parametrize(("owner", "shares"), [("guildllama", True), ("vllm", False), ("tests", False)])
async def test_only_ours_is_known_to(
    make_chat: MakeChat, engine: FakeEngine, client: EngineClient, owner: str, shares: bool
) -> None:
    engine.owner = owner
    assert not client.shares_time
    await say(make_chat(), "hello")
    assert client.shares_time is shares
