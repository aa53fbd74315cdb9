"""Servers whose models think: each gives the thoughts in its own way, and the answer is the answer."""

from __future__ import annotations

from typing import Any

import pytest

from bot.engine_client.client import EngineClient
from bot.engine_client.messages import Delta, Finished, Message, ReplyEvent, Thinking
from tests.fakes.engine.wire import OK, WireServer, chunk, events, refusing

STOP = chunk({}, "stop")
USAGE = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 30}}
HM = "Hm, they greet."
SERVERS: dict[str, list[object]] = {
    "vLLM before 0.12, SGLang, DeepSeek": [
        chunk({"role": "assistant", "content": None, "reasoning_content": HM}),
        chunk({"content": "Hello", "reasoning_content": None}),
        chunk({"content": "!"}),
    ],
    "vLLM, LM Studio": [chunk({"reasoning": HM}), chunk({"reasoning": " So."}), chunk({"content": "Hello!"})],
    "Ollama": [chunk({"role": "assistant", "content": "", "reasoning": HM}), chunk({"content": "Hello!"})],
    "OpenRouter": [
        chunk({"content": "", "reasoning": HM, "reasoning_details": [{"type": "reasoning.text", "text": HM}]}),
        chunk({"content": "Hello!"}),
    ],
    "llama.cpp without a parser": [
        chunk({"content": piece}) for piece in ("<th", "ink>", HM, "</thi", "nk>\n\nHello!")
    ],
    "gpt-oss without a parser": [
        chunk({"content": piece})
        for piece in ("<|channel|>", "analysis", "<|message|>", HM, "<|end|><|start|>assistant<|chan")
    ]
    + [chunk({"content": "nel|>final<|message|>Hello!"})],
    "Mistral's parts": [
        chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": HM}]}]}),
        chunk({"content": [{"type": "text", "text": "Hello!"}]}),
    ],
    "one that does not stream": [
        {"choices": [{"message": {"role": "assistant", "content": "Hello!", "reasoning_content": HM}}]}
    ],
    "fields and marks": [chunk({"reasoning_content": HM}), chunk({"content": "<think></think>Hello!"})],
}


async def stream(client: EngineClient, *messages: Message, text: str = "Hi") -> list[ReplyEvent]:
    """All events of one reply."""
    asked = [*messages, Message(role="user", content=text)]
    options: dict[str, Any] = {"temperature": 1, "top_p": 1, "max_tokens": 99, "user": "u", "cache_salt": "s"}
    return [event async for event in client.stream(asked, **options)]


def answer(found: list[ReplyEvent]) -> str:
    """What is shown in the end."""
    text = ""
    for event in found:
        if isinstance(event, Delta):
            text += event.text
        elif isinstance(event, Thinking) and event.retracts:
            text = ""
    return text


@pytest.mark.parametrize("server", SERVERS)
async def test_thoughts_are_no_answer_and_are_counted(server: str):
    async with WireServer(events(*SERVERS[server], STOP, USAGE)) as wire, EngineClient(wire.url) as client:
        found = await stream(client)
    assert answer(found) == "Hello!"
    assert any(isinstance(event, Thinking) for event in found)
    first = next(index for index, event in enumerate(found) if isinstance(event, Delta))
    assert isinstance(found[0], Thinking)
    assert first > 0
    assert found[-1] == Finished("stop", 9, 30)


async def test_a_prompt_that_opens_the_thoughts_is_learnt_from_the_first_reply():
    wire_events = events(chunk({"content": HM}), chunk({"content": "\n</think>\n\nHello!"}), STOP)
    async with WireServer(wire_events) as wire, EngineClient(wire.url) as client:
        first, second = await stream(client), await stream(client)
        wire.answer = OK  # and a reply without thoughts is not lost
        third, fourth = await stream(client), await stream(client)
    assert [answer(found) for found in (first, second, third, fourth)] == ["Hello!", "Hello!", "ok", "ok"]
    assert [event.text for event in second if isinstance(event, Delta)] == ["Hello!"]
    assert any(isinstance(event, Thinking) and event.retracts for event in first)
    assert not any(isinstance(event, Thinking) for event in fourth)


@pytest.mark.parametrize("role", ["user", "system"])
async def test_a_mark_that_someone_typed_takes_nothing_back(role: Any):
    said = events(chunk({"content": "You wrote </think>, why?"}), STOP)
    async with WireServer(said) as wire, EngineClient(wire.url) as client:
        found = await stream(client, Message(role=role, content="Is </think> HTML?"))
    assert answer(found) == "You wrote </think>, why?"
    assert wire.bodies[0]["messages"][0]["content"] == "Is </think> HTML?"


class TestThinkingIsOff:
    @pytest.mark.parametrize("owner", ["vllm", "sglang", "llamacpp", "guildllama"])
    @pytest.mark.parametrize("thinking", [False, True])
    async def test_where_the_server_renders_a_template(self, owner: str, thinking: bool):
        async with WireServer() as wire:
            wire.models = {"data": [{"id": "m", "owned_by": owner}]}
            async with EngineClient(wire.url, thinking=thinking) as client:
                await stream(client)
        assert wire.bodies[0]["chat_template_kwargs"] == {"enable_thinking": thinking}

    @pytest.mark.parametrize("owner", ["openai", "library", "system", None, 5, ["vllm"]])
    async def test_others_are_not_sent_a_field_that_they_may_not_know(self, owner: object):
        async with WireServer() as wire:
            wire.models = {"data": [{"id": "m", "owned_by": owner}]}
            async with EngineClient(wire.url) as client:
                await stream(client)
        assert "chat_template_kwargs" not in wire.bodies[0]

    async def test_a_server_that_refuses_it_is_asked_without_it(self):
        error = {"error": {"message": "'chat_template_kwargs' is not supported.", "param": "chat_template_kwargs"}}
        async with WireServer(refusing(400, error, lambda body: "chat_template_kwargs" in body)) as wire:
            wire.models = {"data": [{"id": "m", "owned_by": "guildllama"}]}
            async with EngineClient(wire.url) as client:
                assert answer(await stream(client)) == "ok"
                assert answer(await stream(client)) == "ok"
        assert ["chat_template_kwargs" in body for body in wire.bodies] == [True, False, False]
