"""The model's own chat template over HTTP."""

import asyncio
import json
import re
import time
from typing import cast

import httpx
import pytest

from engine.chat.template import ChatTemplate
from engine.chat.templated import TemplatedFormat
from engine.core.engine_core import EngineCore
from engine.server.loaded_model import LoadedModel
from engine.tokenizers.piecewise import PiecewiseEncoder
from tests.engine.chat.template_shapes import source
from tests.engine.chat.vocabulary import vocabulary
from tests.engine.server.conftest import Served

LOOP = "{% if messages | length > 4 %}{% for a in range(99999) %}{% set x = a %}" * 5
LOOP += "{% endfor %}{% endif %}" * 5
HELLO = [{"role": "user", "content": "hello there"}]
CHAT = "/v1/chat/completions"


@pytest.fixture
async def templated(loading: Served) -> Served:
    return load(loading, source("qwen-3") + LOOP)


def load(served: Served, template: str) -> Served:
    encoder = PiecewiseEncoder(vocabulary("qwen-3")[0])
    templated = TemplatedFormat(ChatTemplate(template, {}), encoder)
    engine = cast("EngineCore", served.engine)
    served.service.set_ready(LoadedModel(engine, vocabulary("qwen-3")[0], encoder, templated, 4000))
    return served


async def prompt(served: Served, **fields: object) -> list[int]:
    answer = await served.http.post("/tokenize", json={"messages": HELLO, **fields})
    assert answer.status_code == 200, answer.text
    return cast("list[int]", answer.json()["tokens"])


async def test_variables_reach_the_template(templated: Served) -> None:
    tokenizer = vocabulary("qwen-3")[0]
    off = await prompt(templated)
    assert tokenizer.decode(off).endswith("<think>\n\n</think>\n\n")
    assert await prompt(templated, chat_template_kwargs={"enable_thinking": False}) == off
    on = await prompt(templated, chat_template_kwargs={"enable_thinking": True})
    assert tokenizer.decode(on).endswith("assistant\n")
    answer = await templated.http.post("/tokenize", json={"messages": HELLO, "chat_template_kwargs": {"colour": 1}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "chat_template_kwargs.colour")


async def test_models_without_a_template_take_a_switch_that_is_off(served: Served) -> None:
    await prompt(served, chat_template_kwargs={"enable_thinking": False})
    answer = await served.http.post("/tokenize", json={"messages": HELLO, "chat_template_kwargs": {"thinking": True}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "chat_template_kwargs.thinking")


@pytest.mark.parametrize("name", ["messages", "tools", "bos_token", "add_generation_prompt"])
async def test_variables_cannot_replace_the_dialog(templated: Served, name: str) -> None:
    answer = await templated.http.post(CHAT, json={"messages": HELLO, "chat_template_kwargs": {name: "x"}})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, f"chat_template_kwargs.{name}")


async def test_a_template_that_computes_for_long_holds_up_nobody(templated: Served) -> None:
    slow = asyncio.create_task(templated.http.post(CHAT, json={"messages": HELLO * 5}, timeout=30))
    await asyncio.sleep(0.05)
    waits = []
    while not slow.done():
        started = time.monotonic()
        assert (await templated.http.get("/v1/models")).status_code == 200
        waits.append(time.monotonic() - started)
    answer: httpx.Response = slow.result()
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")
    assert "chat template cannot render the dialog: it takes too many steps" in answer.json()["error"]["message"]
    assert len(waits) > 1
    assert sorted(waits)[len(waits) // 2] < 0.3


async def test_a_reply_that_the_client_began(templated: Served) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "The owl"}]
    ids = await prompt(templated, messages=messages)
    assert vocabulary("qwen-3")[0].decode(ids).endswith("</think>\n\nThe owl")


def ids_of(text: str) -> list[int]:
    return vocabulary("qwen-3")[0].encode(text)


async def reply(served: Served, text: str, **fields: object) -> asyncio.Task[httpx.Response]:
    """A chat request whose reply is delivered token by token."""
    return await reply_at(CHAT, served, text, messages=fields.pop("messages", HELLO), **fields)


async def reply_at(path: str, served: Served, text: str, **fields: object) -> asyncio.Task[httpx.Response]:
    asked = asyncio.create_task(served.http.post(path, json=fields))
    submitted = await served.engine.next_request()
    for token in ids_of(text):
        submitted.deliver([token])
        await asyncio.sleep(0.001)
    submitted.deliver([], "stop")
    return asked


async def test_reasoning_is_a_field_of_its_own(templated: Served) -> None:
    text = "<think>\nI see.\n</think>\n\nHello!"
    body = (await (await reply(templated, text))).json()
    message = body["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("Hello!", "I see.")
    count = len(ids_of("<think>\nI see.\n</think>"))
    assert body["usage"]["completion_tokens_details"] == {"reasoning_tokens": count}
    assert body["usage"]["completion_tokens"] == len(ids_of(text))
    hidden = (await (await reply(templated, text, include_reasoning=False))).json()
    assert "reasoning_content" not in hidden["choices"][0]["message"]
    assert hidden["choices"][0]["message"]["content"] == "Hello!"
    streamed = await (await reply(templated, text, include_reasoning=False, stream=True))
    assert "".join(re.findall(r'"content":"([^"]*)"', streamed.text)) == "Hello!"
    assert "reasoning_content" not in streamed.text


@pytest.mark.parametrize("stream", [False, True])
async def test_responses_count_reasoning_without_showing_it(templated: Served, stream: bool) -> None:
    thought = "<think>I see.</think>"
    answer = await (await reply_at("/v1/responses", templated, f"{thought}Hello!", input="hello", stream=stream))
    last = answer.text.rstrip().rpartition("data: ")[2] if stream else answer.text
    response = json.loads(last)["response"] if stream else json.loads(last)
    assert response["output"][0]["content"][0]["text"] == "Hello!"
    assert response["usage"]["output_tokens_details"] == {"reasoning_tokens": len(ids_of(thought))}
    assert "I see" not in answer.text


@pytest.mark.parametrize("stop", [None, "see"])
async def test_reasoning_in_a_stream(templated: Served, stop: str | None) -> None:
    """A stop string is one of the answer."""
    answer = await (await reply(templated, "<think>I see.</think>Hello!", stream=True, stop=stop))
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    deltas = [event["choices"][0]["delta"] for event in events if event["choices"]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "I see."
    assert "".join(delta.get("content", "") for delta in deltas) == "Hello!"
    assert sum("reasoning_content" in delta for delta in deltas) > 1
    assert all(delta.get("content") or "role" in delta or "content" not in delta for delta in deltas)
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


async def test_a_stop_string_that_is_the_last_token_ends_a_stream_once(templated: Served) -> None:
    fields = {"stream": True, "stop": "\n", "stream_options": {"include_usage": True}}
    answer = await (await reply(templated, "<think>x</think>Hello\n", **fields))
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    ends = [choice["finish_reason"] for event in events for choice in event["choices"] if choice["finish_reason"]]
    assert ends == ["stop"]
    assert events[-1]["usage"]["completion_tokens"] > 0
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_a_loop_of_reasoning_ends_a_stream_once(templated: Served) -> None:
    asked = asyncio.create_task(templated.http.post(CHAT, json={"messages": HELLO, "stream": True}))
    submitted = await templated.engine.next_request()
    submitted.deliver(ids_of("<think>") + ids_of("I see the owl. ") * 500)
    answer = await asked
    assert answer.text.count('"stop_reason":"repetition"') == 1
    assert answer.text.endswith("data: [DONE]\n\n")


async def test_reasoning_that_never_ends(templated: Served) -> None:
    answer = await (await reply(templated, "<think>I see ", stream=True))
    assert "".join(re.findall('"reasoning_content":"([^"]*)"', answer.text)) == "I see"
    assert answer.text.count('"content":') == 1  # of the first event
    body = (await (await reply(templated, "<think>I see "))).json()
    assert (body["choices"][0]["message"]["content"], body["choices"][0]["message"]["reasoning_content"]) == (
        "",
        "I see",
    )


async def test_a_reply_that_the_client_began_is_an_answer(templated: Served) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "The owl "}]
    body = (await (await reply(templated, "<think>", messages=messages))).json()
    assert body["choices"][0]["message"]["content"] == "<think>"
    assert "completion_tokens_details" not in body["usage"]


TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALLED = '<think>hm</think>\n<tool_call>\n{"name": "weather", "arguments": {"town": "Bonn"}}\n</tool_call>'


async def test_calls_of_tools(templated: Served) -> None:
    body = (await (await reply(templated, CALLED, tools=TOOLS))).json()
    choice = body["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    call = choice["message"]["tool_calls"][0]
    assert call["function"] == {"name": "weather", "arguments": '{"town": "Bonn"}'}
    assert (call["type"], choice["message"]["reasoning_content"]) == ("function", "hm")
    for fields in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        plain = (await (await reply(templated, CALLED, **fields))).json()["choices"][0]
        assert (plain["finish_reason"], plain["message"]["content"][:11]) == ("stop", "<tool_call>")
    answered = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "rain"},
    ]
    text = vocabulary("qwen-3")[0].decode(await prompt(templated, messages=answered, tools=TOOLS))
    assert '{"name": "weather", "arguments": {"town": "Bonn"}}\n</tool_call>' in text
    assert "<tool_response>\nrain\n</tool_response>" in text


async def test_calls_of_tools_in_openais_client(templated: Served) -> None:
    asked = templated.client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "hello"}],
        tools=TOOLS,  # type: ignore[arg-type]
        stream=True,
    )
    task = asyncio.create_task(asked)
    submitted = await templated.engine.next_request()
    for token in ids_of(CALLED + CALLED.partition("\n")[2]):
        submitted.deliver([token])
    submitted.deliver([], "stop")
    calls = [call async for chunk in await task for choice in chunk.choices for call in choice.delta.tool_calls or []]
    assert [(call.index, call.function and call.function.name) for call in calls] == [(0, "weather"), (1, "weather")]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{}]}, "tools"),
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"tools": TOOLS, "tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "weather"}}}, "tool_choice"),
        ({"messages": [*HELLO, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "x"}}]}]},
         "messages[1].tool_calls[0]"),
    ],
)  # fmt: skip
async def test_tools_that_are_refused(templated: Served, fields: dict[str, object], param: str) -> None:
    answer = await templated.http.post(CHAT, json={"messages": HELLO, **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_models_without_tools_refuse_them(served: Served) -> None:
    answer = await served.http.post(CHAT, json={"messages": HELLO, "tools": TOOLS})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")
    called = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    answer = await served.http.post(CHAT, json={"messages": [*HELLO, called, *HELLO]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages[1].tool_calls")
