"""`tool_choice` over HTTP: the reply is whatever the grammar allows, one allowed token after another."""

import asyncio
import json
import random
from collections.abc import Sequence
from typing import Any

import httpx
import jsonschema
import pytest

from engine.chat.tool_calls import ToolFormat
from engine.chat.tool_grammar import CallableTool, ReplyRule, tool_grammar
from engine.server.generation import structured_outputs
from engine.structured_output.compiler import GrammarCompiler
from engine.structured_output.grammar import GrammarSpec
from tests.engine.chat.template_shapes import source
from tests.engine.chat.vocabulary import vocabulary
from tests.engine.server.conftest import Served
from tests.engine.server.test_templates import CHAT, HELLO, ids_of, load

WEATHER = {
    "type": "object",
    "properties": {"town": {"enum": ["Bonn", "서울"]}},
    "required": ["town"],
    "additionalProperties": False,
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now"}},
]
NAMED = {"type": "function", "function": {"name": "weather"}}
BROKEN = {"function": {"name": "f", "parameters": {"properties": {"a": {"$ref": "#/x"}}}}}
STRICT = [{"type": "function", "function": {"name": "weather", "parameters": WEATHER, "strict": True}}, TOOLS[1]]


@pytest.fixture
async def qwen(loading: Served) -> Served:
    return load(loading, source("qwen-3"))


async def follow(served: Served, seed: int = 0, say: str = "", end: float = 0.5) -> list[int]:
    """Delivers `say`, then allowed tokens at random until the reply ends; returns the ids."""
    submitted = await served.engine.next_request()
    constraint, tokenizer, rng = submitted.constraint, vocabulary("qwen-3")[0], random.Random(seed)
    assert constraint is not None
    ids: list[int] = []
    for _ in range(600):
        mask = constraint.mask()
        choices = [token_id for token_id in range(tokenizer.vocab_size) if mask[token_id // 8] >> token_id % 8 & 1]
        if len(ids) < len(ids_of(say)):
            token_id = ids_of(say)[len(ids)]
            assert token_id in choices
        elif tokenizer.stop_ids.intersection(choices) and rng.random() < end:
            break
        else:
            token_id = rng.choice([each for each in choices if each not in tokenizer.stop_ids])
        ids.append(token_id)
        submitted.deliver([token_id])
        if constraint.accept(token_id):
            break
    submitted.deliver([], "stop")
    return ids


async def ask(served: Served, seed: int = 0, say: str = "", end: float = 0.5, **fields: Any) -> dict[str, Any]:
    """The one choice of a reply."""
    asked = asyncio.create_task(served.http.post(CHAT, json={"messages": HELLO, "tools": TOOLS, **fields}))
    await follow(served, seed, say, end)
    answer = await asked
    assert answer.status_code == 200, answer.text
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


def names_of(calls: Sequence[dict[str, Any]]) -> list[str]:
    for call in calls:
        if call["function"]["name"] == "weather":
            jsonschema.validate(json.loads(call["function"]["arguments"]), WEATHER)
    return [call["function"]["name"] for call in calls]


async def test_a_call_that_is_required(qwen: Served) -> None:
    seen = []
    for seed in range(6):
        choice = await ask(qwen, seed, tool_choice="required")
        assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
        seen.append(names_of(choice["message"]["tool_calls"]))
    assert {name for names in seen for name in names} == {"weather", "now"}
    assert max(map(len, seen)) > 1


@pytest.mark.parametrize("stream", [False, True])
async def test_one_call_at_a_time(qwen: Served, stream: bool) -> None:
    fields = {"tool_choice": "required", "parallel_tool_calls": False}
    if not stream:
        choice = await ask(qwen, end=0, **fields)
        assert (choice["finish_reason"], len(choice["message"]["tool_calls"])) == ("tool_calls", 1)
        return
    deltas, reason = await streamed(qwen, end=0, **fields)
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert (len(names_of(calls)), reason) == (1, "tool_calls")


async def streamed(served: Served, end: float, **fields: Any) -> tuple[list[dict[str, Any]], str]:
    body = {"messages": HELLO, "tools": TOOLS, "stream": True, **fields}
    asked = asyncio.create_task(served.http.post(CHAT, json=body))
    await follow(served, end=end)
    events = [json.loads(line[6:]) for line in (await asked).text.splitlines() if line.startswith("data: {")]
    return [event["choices"][0]["delta"] for event in events], events[-1]["choices"][0]["finish_reason"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_named_function_is_called_once_and_ends_as_with_openai(qwen: Served, stream: bool) -> None:
    if stream:
        deltas, reason = await streamed(qwen, end=0, tool_choice=NAMED)
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    else:
        choice = await ask(qwen, end=0, tool_choice=NAMED)
        calls, reason = choice["message"]["tool_calls"], choice["finish_reason"]
    assert (names_of(calls), reason) == (["weather"], "stop")


async def test_only_the_tools_that_are_allowed(qwen: Served) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "now"}}]}
    for seed in range(3):
        choice = await ask(qwen, seed, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
        assert {*names_of(choice["message"]["tool_calls"])} == {"now"}
    prompt = vocabulary("qwen-3")[0].decode(list(qwen.engine.submitted[-1].prompt))
    assert "weather" not in prompt


@pytest.mark.parametrize("choice", ["required", NAMED])
async def test_reasoning_comes_first(qwen: Served, choice: object) -> None:
    variables = {"chat_template_kwargs": {"enable_thinking": True}}
    answered = await ask(qwen, say="<think>I see.</think>\n\n<tool_call>", tool_choice=choice, end=1, **variables)
    assert answered["message"]["reasoning_content"] == "I see."
    assert answered["message"]["content"] is None
    assert names_of(answered["message"]["tool_calls"])


async def test_a_strict_tool_under_auto(qwen: Served) -> None:
    choice = await ask(qwen, say='Hm.\n<tool_call>\n{"name": "weather"', tools=STRICT, end=1)
    assert (choice["finish_reason"], choice["message"]["content"].strip()) == ("tool_calls", "Hm.")
    assert names_of(choice["message"]["tool_calls"]) == ["weather"]
    plain = await ask(qwen, say="Only text", tools=STRICT, end=1)
    assert (plain["finish_reason"], plain["message"]["content"]) == ("stop", "Only text")


async def test_tools_beside_a_schema(qwen: Served) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"const": True}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    fields = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
    assert json.loads((await ask(qwen, say='{"', **fields))["message"]["content"]) == {"ok": True}
    called = await ask(qwen, say="<tool_call>", tools=STRICT, **fields)
    assert names_of(called["message"]["tool_calls"])


ONE = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize("stream", [False, True])
async def test_auto_without_parallel_calls_ends_with_the_first(qwen: Served, stream: bool) -> None:
    body = {"messages": HELLO, "tools": TOOLS, "parallel_tool_calls": False, "stream": stream, "stop": ["xy"]}
    asked = asyncio.create_task(qwen.http.post(CHAT, json=body))
    submitted = await qwen.engine.next_request()
    assert submitted.constraint is None
    submitted.deliver(ids_of("I look. x" + ONE + ONE))
    answer: httpx.Response = await asked
    assert submitted.cancelled.is_set()
    assert answer.text.count('"name":"now"') == 1
    assert answer.text.count('"finish_reason":"tool_calls"') == 1
    assert "I look. x" in answer.text.replace('"}', "")


@pytest.mark.parametrize(
    ("fields", "param", "word"),
    [
        ({"tools": [TOOLS[1], {"function": {"name": "f", "strict": True, "parameters": {"not": {}}}}]},
         "tools[1].function.parameters", "not"),
        ({"tools": [BROKEN], "tool_choice": "required"}, "tools[0].function.parameters", "ref"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}},
         "response_format", "not"),
        # The grammar has no schema of a tool that is not strict under auto, nor of one that may not be called.
        ({"tools": [BROKEN, {"function": {"name": "g", "strict": True, "parameters": {"not": {}}}}]},
         "tools[1].function.parameters", "not"),
        ({"tools": [BROKEN, {"function": {"name": "g", "parameters": BROKEN["function"]["parameters"]}}],
          "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tools[1].function.parameters", "ref"),
    ],
)  # fmt: skip
async def test_a_schema_that_cannot_be_kept_is_named(
    qwen: Served, fields: dict[str, Any], param: str, word: str
) -> None:
    answer = await qwen.http.post(CHAT, json={"messages": HELLO, "tools": TOOLS, **fields})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert word in answer.json()["error"]["message"]
    assert not qwen.engine.submitted


async def test_a_schema_that_is_not_strict_is_kept_as_far_as_possible(qwen: Served) -> None:
    parameters = {"properties": {"a": {"type": "string", "format": "nonsense"}}, "required": ["a"]}
    tools = [{"function": {"name": "f", "parameters": parameters}}]
    asked = asyncio.create_task(
        qwen.http.post(CHAT, json={"messages": HELLO, "tools": tools, "tool_choice": "required"})
    )
    assert (await qwen.engine.next_request()).constraint is not None
    qwen.engine.submitted[-1].deliver([], "length")
    assert (await asked).status_code == 200


async def test_attack_the_search_for_one_schema_of_many_is_bounded(
    qwen: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(structured_outputs, "MAX_SEARCH_SECONDS", -1.0)
    tools = [{"function": {"name": "f", "strict": True, "parameters": {"not": {}}}}]
    answer = await qwen.http.post(CHAT, json={"messages": HELLO, "tools": tools, "tool_choice": "required"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")


def test_as_many_tools_as_there_may_be_fit() -> None:
    """A schema of a kilobyte for each of the most tools is no reason to refuse."""
    properties = {f"field_{n}": {"type": "string", "description": "x" * 80} for n in range(8)}
    tools = [CallableTool(f"tool_{n}", {"type": "object", "properties": properties}) for n in range(128)]
    text = tool_grammar(ToolFormat("hermes", {}), tools, ReplyRule("calls"))
    tokenizer = vocabulary("qwen-3")[0]
    assert GrammarCompiler(tokenizer, tokenizer.stop_ids).compile(GrammarSpec("lark", text)).mask()
