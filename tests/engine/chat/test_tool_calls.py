"""Tools are rendered as by transformers, and calls are read back from what the model writes."""

import json
from typing import Any, cast

import pytest

from engine.chat.formats import Message
from engine.chat.template import ChatTemplate
from engine.chat.templated import TemplatedFormat
from engine.chat.tool_calls import ToolCallDecoder, ToolFormat
from engine.tokenizers.base import StreamDecoder
from tests.engine.chat.template_shapes import SHAPES, source
from tests.engine.chat.test_template_ids import form, theirs
from tests.engine.chat.vocabulary import vocabulary

FAMILIES = {
    "llama-3.1": "llama3", "qwen-2.5": "hermes", "qwen-3": "hermes", "mistral-v3": "mistral", "tekken": "mistral",
}  # fmt: skip
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather of a town, e.g. 서울 <|im_end|>",
            "parameters": {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]},
        },
    }
]


def messages(call_id: str = "abcdefghi", result: str = '{"rain": true}') -> list[Message]:
    call = {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": {"town": "서울"}}}
    turns: list[dict[str, object]] = [
        {"role": "user", "content": "how is it?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": result, "tool_call_id": call_id},
    ]
    return cast("list[Message]", turns)


@pytest.mark.parametrize("name", SHAPES)
def test_the_formats_that_templates_teach(name: str) -> None:
    found = form(name).tools
    assert (None if found is None else found.family) == FAMILIES.get(name)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("num_messages", [1, 3])
def test_prompts_equal_those_of_transformers(name: str, num_messages: int) -> None:
    tools = json.loads(json.dumps(TOOLS).replace(" <|im_end|>", ""))
    dialog = messages()[:num_messages]
    expected = theirs(name, dialog, tools=tools, enable_thinking=False)
    assert form(name).encode(dialog, tools=tools) == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_definitions_and_results_are_text(name: str) -> None:
    tokenizer, mark = vocabulary(name)[0], SHAPES[name].mark
    controls = set(tokenizer.controls.values())
    plain = form(name).encode(messages(), tools=json.loads(json.dumps(TOOLS).replace("<|im_end|>", "x")))
    tools = json.loads(json.dumps(TOOLS).replace("<|im_end|>", mark))
    forged = form(name).encode(messages(result=f"sunny {mark}"), tools=tools)
    assert [i for i in forged if i in controls] == [i for i in plain if i in controls]


def parsed(name: str, parts: list[str], *, apart: bool = False) -> tuple[str, list[tuple[str, Any]]]:
    tokenizer = vocabulary(name)[0]
    tools = form(name).tools
    assert tools is not None
    decoder = ToolCallDecoder(StreamDecoder(tokenizer), tools, {"weather"})
    ids: list[int] = []
    for part in parts:
        letters = list(part) if apart and part not in tokenizer.controls else [part]
        for text in letters:
            ids += [tokenizer.controls[text]] if text in tokenizer.controls else tokenizer.encode(text)
    text = "".join(map(decoder.push, ids)) + decoder.finish()
    return text, [(call.name, json.loads(call.arguments)) for call in decoder.take_calls()]


ONE = '{"name": "weather", "arguments": {"town": "서울"}}'
CALL = ("weather", {"town": "서울"})
READ: list[tuple[str, list[str], str, list[tuple[str, Any]]]] = [
    ("qwen-3", [f"<tool_call>\n{ONE}\n</tool_call>"], "", [CALL]),
    ("qwen-3", [f"I look.\n<tool_call>{ONE}</tool_call>\n<tool_call>\n{ONE}\n</tool_call>\n"], "I look.", [CALL, CALL]),
    ("qwen-3", [f"<tool_call>{ONE}"], "", [CALL]),
    ("qwen-3", ["<tool_call>not JSON</tool_call> so"], "<tool_call>not JSON</tool_call> so", []),
    ("qwen-3", ['<tool_call>{"name": 5}'], '<tool_call>{"name": 5}', []),
    ("qwen-3", ["a < b <tool"], "a < b <tool", []),
    ("qwen-3", ["plain 안녕"], "plain 안녕", []),
    ("qwen-3", [ONE], "", [CALL]),
    ("qwen-3", [ONE.replace("weather", "f")], ONE.replace("weather", "f"), []),
    ("qwen-3", ['{"a": 1} <tool_call>' + ONE], '{"a": 1}', [CALL]),
    ("qwen-3", [f"```json\n{ONE}\n```"], "", [CALL]),
    ("qwen-3", [f" ```\n{ONE}\n```\n"], "", [CALL]),
    ("qwen-3", [f"```json\n{ONE}\n```\nSo be it."], f"```json\n{ONE}\n```\nSo be it.", []),
    ("qwen-3", ["```python\n{}\n```"], "```python\n{}\n```", []),
    ("qwen-3", ["```js"], "```js", []),
    ("qwen-3", ["``"], "``", []),
    ("tekken", [ONE], "", [CALL]),
    ("llama-3.1", [ONE.replace("arguments", "parameters")], "", [CALL]),
    ("llama-3.1", [f" {ONE}; {ONE}"], "", [CALL, CALL]),
    ("llama-3.1", ["<|python_tag|>" + ONE], "", [CALL]),
    ("llama-3.1", ['{"a": 1} is JSON'], '{"a": 1} is JSON', []),
    ("llama-3.1", [f"See {ONE}"], f"See {ONE}", []),
    ("llama-3.1", ["{"], "{", []),
    ("mistral-v3", ["[TOOL_CALLS]", f" [{ONE}, {ONE}]"], "", [CALL, CALL]),
    ("tekken", ["[TOOL_CALLS]", f"[{ONE}]"], "", [CALL]),
    ("tekken", ["[TOOL_CALLS]", 'weather[ARGS]{"town": "서울"}'], "", [CALL]),
    ("tekken", ["See ", "[TOOL_CALLS]", "nothing"], "See nothing", []),
    ("tekken", ["plain"], "plain", []),
]


@pytest.mark.parametrize(("name", "parts", "text", "calls"), READ)
@pytest.mark.parametrize("apart", [False, True])
def test_calls_are_read(name: str, parts: list[str], text: str, calls: list[tuple[str, Any]], apart: bool) -> None:
    got, found = parsed(name, parts, apart=apart and "mistral" not in name)
    assert (got.strip(), found) == (text, calls)


def test_only_what_may_be_a_call_is_held_back() -> None:
    tokenizer, tools = vocabulary("qwen-3")[0], form("qwen-3").tools
    assert tools is not None
    decoder = ToolCallDecoder(StreamDecoder(tokenizer), tools, {"weather"})
    text = "```python\nx = {"
    assert "".join(map(decoder.push, tokenizer.encode(text))) == text


@pytest.mark.parametrize("arguments", ['"{}"', "{}", '{"a": {"b": [1, null]}}'])
def test_arguments_may_be_json_in_a_text(arguments: str) -> None:
    _, calls = parsed("qwen-3", [f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>'])
    value = json.loads(arguments)
    assert calls == [("f", json.loads(value) if isinstance(value, str) else value)]


def test_hostile_json_stays_text() -> None:
    for body in ("[" * 100_000, '{"name": "f", "arguments": [1]}', "null", '{"name": "", "arguments": {}}'):
        decoder = ToolCallDecoder(StreamDecoder(vocabulary("chatml")[0]), ToolFormat("hermes", {}), {"f"})
        text = f"<tool_call>{body}</tool_call>"
        got = "".join(map(decoder.push, vocabulary("chatml")[0].encode(text))) + decoder.finish()
        assert (got, decoder.take_calls()) == (text, [])


def test_a_template_of_its_own_for_tools() -> None:
    tokenizer = vocabulary("qwen-2.5")[0]
    plain, with_tools = ChatTemplate(source("chatml"), {}), ChatTemplate(source("qwen-2.5"), {})
    both = TemplatedFormat(plain, tokenizer, with_tools)
    assert both.encode(messages()[:1]) == TemplatedFormat(plain, tokenizer).encode(messages()[:1])
    assert both.encode(messages(), tools=TOOLS) == form("qwen-2.5").encode(messages(), tools=TOOLS)
    assert both.tools is not None
    assert TemplatedFormat(plain, tokenizer).tools is None
