"""Tools in /v1/responses, with the openai client: calls in one piece and as events, and their outputs as input."""

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from tests.engine.chat.template_shapes import source
from tests.engine.chat.vocabulary import vocabulary
from tests.engine.server.conftest import Served
from tests.engine.server.generation.test_tool_choice import WEATHER, follow
from tests.engine.server.test_templates import ids_of, load

TOOLS: Any = [
    {"type": "function", "name": "weather", "description": "Rain or not.", "parameters": WEATHER, "strict": False},
    {"type": "function", "name": "now", "parameters": None, "strict": None},
]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"town": "Bonn"}}\n</tool_call>'
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


@pytest.fixture
async def qwen(loading: Served) -> Served:
    return load(loading, source("qwen-3"))


async def say(served: Served, text: str, together: bool = False) -> None:
    submitted = await served.engine.next_request()
    ids = ids_of(text)
    for chunk in [ids] if together else [[token_id] for token_id in ids]:
        submitted.deliver(chunk)
        await asyncio.sleep(0)
    submitted.deliver([], "stop")


async def test_calls_in_one_piece(qwen: Served) -> None:
    asked = asyncio.create_task(qwen.client.responses.create(model="tiny", input="hello", tools=TOOLS))
    await say(qwen, f"I look. {CALL}\n{NOW}")
    response = await asked
    assert [item.type for item in response.output] == ["message", "function_call", "function_call"]
    assert (response.output_text, response.status) == ("I look. ", "completed")
    first, second = (item for item in response.output if item.type == "function_call")
    assert (first.name, json.loads(first.arguments), first.status) == ("weather", {"town": "Bonn"}, "completed")
    assert (second.name, second.arguments) == ("now", "{}")
    assert first.call_id != second.call_id
    assert first.id != second.id
    assert (response.tool_choice, response.parallel_tool_calls, len(response.tools)) == ("auto", True, 2)
    asked = asyncio.create_task(qwen.client.responses.create(model="tiny", input="hello", tools=TOOLS))
    await say(qwen, CALL)
    assert [item.type for item in (await asked).output] == ["function_call"]


@pytest.mark.parametrize("together", [False, True])
async def test_the_events_of_calls(qwen: Served, together: bool) -> None:
    async with qwen.client.responses.stream(model="tiny", input="hello", tools=TOOLS) as stream:
        saying = asyncio.create_task(say(qwen, f"I look. {CALL}\n{NOW}", together))
        events = [event async for event in stream]
        await saying
    one = [
        "response.output_item.added", "response.function_call_arguments.delta",
        "response.function_call_arguments.done", "response.output_item.done",
    ]  # fmt: skip
    kinds = [event.type for event in events if event.type != "response.output_text.delta"]
    assert kinds == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        "response.output_text.done", "response.content_part.done", "response.output_item.done", *one, *one,
        "response.completed",
    ]  # fmt: skip
    assert [event.sequence_number for event in events] == list(range(len(events)))
    added = [event for event in events if event.type == "response.output_item.added"]
    assert [event.output_index for event in added] == [0, 1, 2]
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [json.loads(event.arguments) for event in done] == [{"town": "Bonn"}, {}]
    assert [event.item_id for event in done] == [event.item.id for event in added[1:]]
    final = events[-1]
    assert final.type == "response.completed"
    assert [item.type for item in final.response.output] == ["message", "function_call", "function_call"]
    assert final.response.output_text == "I look. "


async def test_a_stream_of_a_call_alone(qwen: Served) -> None:
    stream = await qwen.client.responses.create(model="tiny", input="hello", tools=TOOLS, stream=True)
    await say(qwen, CALL)
    items = [event.item.type async for event in stream if event.type == "response.output_item.done"]
    assert items == ["function_call"]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"weather", "now"}),
        ({"type": "function", "name": "now"}, {"now"}),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]},
            {"weather"},
        ),
    ],
)
async def test_calls_that_are_asked_for(qwen: Served, choice: Any, names: set[str]) -> None:
    asked = asyncio.create_task(
        qwen.client.responses.create(
            model="tiny", input="hello", tools=TOOLS, tool_choice=choice, parallel_tool_calls=False
        )
    )
    await follow(qwen, end=0)
    response = await asked
    assert len(response.output) == 1
    assert response.output[0].type == "function_call"
    assert response.output[0].name in names
    assert response.parallel_tool_calls is False


async def test_a_dialog_with_calls(qwen: Served) -> None:
    asked = asyncio.create_task(qwen.client.responses.create(model="tiny", input="hello there", tools=TOOLS))
    await say(qwen, f"I look. {CALL}\n{NOW}")
    output = (await asked).output
    calls = [item for item in output if item.type == "function_call"]
    outputs = [{"type": "function_call_output", "call_id": call.call_id, "output": "rain"} for call in calls]
    outputs[1]["output"] = [{"type": "input_text", "text": "noon"}]  # type: ignore[assignment]
    dialog: Any = [{"role": "user", "content": "hello there"}, {"type": "reasoning", "id": "rs_1", "summary": []}]
    dialog += [*(item.model_dump() for item in output), *outputs]
    again = asyncio.create_task(qwen.client.responses.create(model="tiny", input=dialog, tools=TOOLS))
    await say(qwen, "It rains.")
    assert (await again).output_text == "It rains."
    prompt = vocabulary("qwen-3")[0].decode(list(qwen.engine.submitted[-1].prompt))
    assert f"assistant\nI look. \n{CALL}\n{NOW}\n" in prompt
    assert "<tool_response>\nrain\n</tool_response>\n<tool_response>\nnoon\n</tool_response>" in prompt


async def test_a_text_after_the_calls_is_of_the_same_reply(qwen: Served) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "now", "arguments": "{}"}
    said = {"role": "assistant", "content": [{"type": "output_text", "text": "I look."}]}
    output = {"type": "function_call_output", "call_id": "c", "output": "noon"}
    prompts = []
    for items in ([said, call, output], [call, said, output]):
        asked = asyncio.create_task(
            qwen.client.responses.create(
                model="tiny",
                input=[{"role": "user", "content": "hello"}, *items],
                tools=TOOLS,  # type: ignore[list-item]
            )
        )
        await say(qwen, "x")
        await asked
        prompts.append(qwen.engine.submitted[-1].prompt)
    assert prompts[0] == prompts[1]


async def test_errors_have_the_names_of_this_api(qwen: Served) -> None:
    bad: Any = [{"type": "function", "name": "f", "parameters": {"not": {}}, "strict": True}]
    with pytest.raises(openai.BadRequestError) as caught:
        await qwen.client.responses.create(model="tiny", input="x", tools=bad)
    assert caught.value.param == "tools[0].parameters"
    items = [
        {"role": "user", "content": "x"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
    ]
    late = [*items, {"role": "user", "content": "y"}, {"type": "function_call_output", "call_id": "c", "output": "z"}]
    for given, param in ((late, "input[3].role"), ([items[0], {**items[1], "arguments": "["}], "input[1]")):
        answer: httpx.Response = await qwen.http.post(
            "/v1/responses", json={"input": given, "instructions": "Be kind.", "tools": TOOLS}
        )
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
