"""Short answers that no member sees: what is sent for one, and how much of it is read."""

from __future__ import annotations

import pytest

from bot.engine_client.client import EngineClient
from bot.engine_client.messages import Message
from bot.engine_client.pseudonyms import Pseudonyms
from bot.settings import Settings
from bot.short_answers import ShortAnswers, json_format
from models.types import DialogKey
from tests.fakes.engine import FakeEngine, Script

KEY = DialogKey(1, 10)
PROMPT = [Message(role="user", content="Who speaks?")]


@pytest.mark.parametrize(("thinking", "max_tokens"), [(False, 48), (True, 48 + 1024)])
async def test_a_model_that_thinks_has_room_for_it(thinking: bool, max_tokens: int) -> None:
    settings = Settings(_env_file=None, thinking=thinking)
    wanted = json_format("speaker", {"speaker": {"enum": ["Jack"]}})
    async with FakeEngine() as engine, EngineClient(engine.url) as client:
        engine.default = lambda request: Script(deltas=("<think>Jack, or", " Anne?</think>", '{"speaker":', ' "Jack"}'))
        answer = await ShortAnswers(client, settings).ask(KEY, PROMPT, max_tokens=48, response_format=wanted)
    assert answer == '{"speaker": "Jack"}'
    [request] = engine.requests
    assert request.body["max_tokens"] == max_tokens
    assert request.body["response_format"] == wanted
    assert request.body["user"] == Pseudonyms(settings).user(KEY)


async def test_an_answer_without_end_is_cut_off() -> None:
    async with FakeEngine() as engine, EngineClient(engine.url) as client:
        engine.default = lambda request: Script(deltas=("x" * 1000,) * 1000)
        answers = ShortAnswers(client, Settings(_env_file=None))
        assert len(await answers.ask(KEY, PROMPT, max_tokens=48, response_format={})) < 20_000
