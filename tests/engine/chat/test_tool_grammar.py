"""Whatever the grammar of a tool call allows is a call that can be read, with arguments of the function's schema."""

import json
import random
from collections.abc import Sequence
from functools import cache
from typing import Any

import jsonschema
import pytest

from engine.chat.reasoning import reasoning_decoder
from engine.chat.tool_calls import ToolCall, ToolCallDecoder, ToolFormat
from engine.chat.tool_grammar import CallableTool, ReplyRule, tool_grammar
from engine.logits_params import ConstraintFailed
from engine.structured_output.compiler import GrammarCompiler, GrammarMatcher
from engine.structured_output.grammar import GrammarSpec
from engine.tokenizers.base import StreamDecoder
from tests.engine.chat.test_template_ids import form
from tests.engine.chat.vocabulary import vocabulary

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"town": {"$ref": "#/$defs/town"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "$defs": {"town": {"enum": ["Bonn", "서울", "a/b \"c\""]}},
    "required": ["town"],
    "additionalProperties": False,
}  # fmt: skip
SCHEMAS: dict[str, dict[str, Any]] = {
    "weather": WEATHER,
    "say.안녕-x": {"properties": {"yes": {"type": "boolean"}}, "required": ["yes"], "additionalProperties": False},
    "now": {"type": "object", "properties": {}, "additionalProperties": False},
}
TOOLS = [CallableTool("weather", WEATHER, True), *(CallableTool.of_function({"name": name, "parameters": schema})
         for name, schema in SCHEMAS.items() if name != "weather")]  # fmt: skip
NAMES = ("qwen-2.5", "qwen-3", "llama-3.1", "mistral-v3", "tekken")
ALL = (*NAMES, "named", "named with ids")


def tool_format(name: str) -> tuple[str, ToolFormat]:
    """The vocabulary's name, and its format; the newer Mistral formats over the older one's vocabulary."""
    if not name.startswith("named"):
        found = form(name).tools
        assert found is not None
        return name, found
    controls = {vocabulary("tekken")[0].controls["[TOOL_CALLS]"]: "[TOOL_CALLS]"}
    return "tekken", ToolFormat("mistral", controls, ("[CALL_ID]", "[ARGS]") if "ids" in name else ("[ARGS]",))


@cache
def compiler(name: str) -> GrammarCompiler:
    tokenizer = vocabulary(name)[0]
    return GrammarCompiler(tokenizer, tokenizer.stop_ids)


def matcher(name: str, rule: ReplyRule, tools: Sequence[CallableTool] = TOOLS, **fields: Any) -> GrammarMatcher:
    vocabulary_name, found = tool_format(name)
    text = tool_grammar(found, tools, rule, fields.pop("reasoning", None), **fields)
    return compiler(vocabulary_name).compile(GrammarSpec("lark", text))


def allowed(constraint: GrammarMatcher, size: int) -> list[int]:
    mask = constraint.mask()
    return [token_id for token_id in range(size) if mask[token_id // 8] >> token_id % 8 & 1]


def say_anything(name: str, constraint: GrammarMatcher, seed: int, end: float = 1.0) -> list[int] | None:
    """Ids chosen at random among the allowed ones; `end`: how likely it ends where it may. None: it became too long."""
    tokenizer, rng, ids = vocabulary(tool_format(name)[0])[0], random.Random(seed), list[int]()
    for _ in range(1500):
        choices = allowed(constraint, tokenizer.vocab_size)
        assert choices
        if tokenizer.stop_ids.intersection(choices) and rng.random() < end:
            return ids
        choices = [token_id for token_id in choices if token_id not in tokenizer.stop_ids]
        quotes = [token_id for token_id in choices if set(str(tokenizer.piece(token_id))) & set('"}]')]
        ids.append(rng.choice(quotes if quotes and rng.random() < 0.5 else choices))
        if constraint.accept(ids[-1]):
            return ids
    return None


def read(name: str, ids: Sequence[int], **fields: Any) -> tuple[str, list[ToolCall]]:
    vocabulary_name, found = tool_format(name)
    inner = fields.get("inner") or StreamDecoder(vocabulary(vocabulary_name)[0])
    decoder = ToolCallDecoder(inner, found, set(SCHEMAS))
    text = "".join(map(decoder.push, ids)) + decoder.finish()
    return text, decoder.take_calls()


def check(calls: Sequence[ToolCall]) -> None:
    for call in calls:
        jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])


@pytest.mark.parametrize("name", ALL)
def test_whatever_is_allowed_is_a_call(name: str) -> None:
    seen, several = set(), 0
    for seed in range(12):
        ids = say_anything(name, matcher(name, ReplyRule("calls")), seed, end=0.4)
        if ids is None:
            continue
        text, calls = read(name, ids)
        assert (text.strip(), bool(calls)) == ("", True)
        check(calls)
        seen |= {call.name for call in calls}
        several += len(calls) > 1
    assert seen == {*SCHEMAS}
    assert bool(several) == (name != "llama-3.1")  # whose template takes one call in a message


@pytest.mark.parametrize("name", ALL)
def test_one_call_of_one_tool(name: str) -> None:
    for seed in range(4):
        ids = say_anything(name, matcher(name, ReplyRule("calls", parallel=False), TOOLS[:1]), seed, end=0)
        assert ids is not None
        assert [call.name for call in read(name, ids)[1]] == ["weather"]


CALL = '{"name": "weather", "arguments": {"town": "Bonn"}}'
WRONG = CALL.replace("Bonn", "Berlin")
KEPT: list[tuple[str, list[str], bool]] = [
    ("qwen-3", [f"<tool_call>\n{CALL}\n</tool_call>\n<tool_call>{CALL}</tool_call>"], True),
    ("qwen-3", [f"<tool_call>\n{WRONG}\n</tool_call>"], False),
    ("qwen-3", ["I look.", f"<tool_call>\n{CALL}\n</tool_call>"], False),
    ("qwen-3", [CALL], False),
    ("llama-3.1", [CALL.replace("arguments", "parameters")], True),
    ("llama-3.1", [CALL], False),
    ("mistral-v3", ["[TOOL_CALLS]", f" [{CALL}, {CALL}]"], True),
    ("mistral-v3", [f"[TOOL_CALLS] [{CALL}]"], False),
    ("tekken", ["[TOOL_CALLS]", f"[{CALL}]"], True),
    ("named", ["[TOOL_CALLS]", 'weather[ARGS]{"town": "Bonn"}', "[TOOL_CALLS]", "now[ARGS]{}"], True),
    ("named with ids", ["[TOOL_CALLS]", "now[CALL_ID]abcdefghi[ARGS]{}"], True),
    ("named with ids", ["[TOOL_CALLS]", "now[ARGS]{}"], False),
]
TEXT: list[tuple[str, list[str], bool]] = [
    ("qwen-3", ["plain <b> 안녕\n"], True),
    ("qwen-3", [f"I look.\n<tool_call>\n{CALL}\n</tool_call>"], True),
    ("qwen-3", [f"I look.\n<tool_call>\n{WRONG}"], False),
    ("qwen-3", [f"<tool_call>\n{WRONG}"], False),
    ("qwen-3", [CALL], True),
    ("qwen-3", [WRONG], False),
    ("qwen-3", [WRONG.replace("weather", "other")], True),
    ("qwen-3", ['<tool_call>{"name": "say.안녕-x", "arguments": {"any": ["thing"]}}</tool_call>'], True),
    ("qwen-3", [f"```json\n{CALL}\n```"], True),
    ("qwen-3", [f"```json\n{WRONG}"], False),
    ("qwen-3", ["```json\n[1]\n```"], True),
    ("llama-3.1", ["plain"], True),
    ("llama-3.1", [CALL.replace("arguments", "parameters").replace(" ", "")], True),
    ("llama-3.1", [WRONG.replace("arguments", "parameters")], False),
    ("llama-3.1", ['{"a": 1} is JSON'], True),
    ("llama-3.1", ['{ "name":  "weather", "parameters": {"town": "Berlin"'], False),
    ("tekken", ["plain ", "[TOOL_CALLS]", f"[{CALL}]"], True),
    ("tekken", ["[TOOL_CALLS]", f"[{WRONG}"], False),
    ("named", ["plain", "[TOOL_CALLS]", 'weather[ARGS]{"town": "Bonn"}'], True),
    ("named", ["plain", "[TOOL_CALLS]", 'weather[ARGS]{"town": "Berlin'], False),
]
ANSWERS: list[tuple[str, list[str], bool]] = [
    ("qwen-3", ['{"ok": true}'], True),
    ("qwen-3", [f"<tool_call>\n{CALL}\n</tool_call>"], True),
    ("qwen-3", ["plain"], False),
    ("llama-3.1", ['{"ok": true}'], True),
    ("llama-3.1", [CALL.replace("arguments", "parameters")], True),
    ("tekken", ["[TOOL_CALLS]", f"[{CALL}]"], True),
    ("tekken", ['{"no": true}'], False),
]
OK = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}


def takes(name: str, constraint: GrammarMatcher, parts: Sequence[str]) -> bool:
    """Whether the grammar takes the text to its end."""
    tokenizer = vocabulary(tool_format(name)[0])[0]
    try:
        for part in parts:
            for token_id in [tokenizer.controls[part]] if part in tokenizer.controls else tokenizer.encode(part):
                constraint.accept(token_id)
    except ConstraintFailed:
        return False
    return bool(tokenizer.stop_ids.intersection(allowed(constraint, tokenizer.vocab_size)))


@pytest.mark.parametrize(("name", "parts", "taken"), KEPT)
def test_calls_that_are_asked_for(name: str, parts: list[str], taken: bool) -> None:
    assert takes(name, matcher(name, ReplyRule("calls")), parts) == taken


@pytest.mark.parametrize(("name", "parts", "taken"), TEXT)
def test_strict_tools_hold_once_a_call_has_begun(name: str, parts: list[str], taken: bool) -> None:
    assert takes(name, matcher(name, ReplyRule("calls or text")), parts) == taken


@pytest.mark.parametrize(("name", "parts", "taken"), ANSWERS)
def test_calls_or_an_answer_of_a_schema(name: str, parts: list[str], taken: bool) -> None:
    assert takes(name, matcher(name, ReplyRule("calls or answer", answer=OK)), parts) == taken


def test_an_empty_schema_takes_any_json() -> None:
    constraint = matcher("qwen-3", ReplyRule("calls or answer", answer={}))
    assert takes("qwen-3", constraint, ["[1, 2]"])


@pytest.mark.parametrize("begun", [False, True])
def test_reasoning_comes_first(begun: bool) -> None:
    reasoning = form("qwen-3").reasoning
    assert reasoning is not None
    call = f"<tool_call>\n{CALL}\n</tool_call>"
    thought = "I <think> of <tool_call> { </think>\n\n"
    fields = {"reasoning": reasoning, "reasoning_has_begun": begun}
    assert takes("qwen-3", matcher("qwen-3", ReplyRule("calls"), **fields), [thought + call]) == begun
    assert takes("qwen-3", matcher("qwen-3", ReplyRule("calls"), **fields), ["<think>" + thought + call])
    assert takes("qwen-3", matcher("qwen-3", ReplyRule("calls"), **fields), [call]) != begun
    assert takes("qwen-3", matcher("qwen-3", ReplyRule("calls or text"), **fields), ["<think>hm</think> Hello"])
    tokenizer = vocabulary("qwen-3")[0]
    decoder = reasoning_decoder(tokenizer, reasoning, tokenizer.encode("<think>\n") if begun else [])
    text, calls = read("qwen-3", tokenizer.encode(("" if begun else "<think>") + thought + call), inner=decoder)
    assert (text.strip(), [each.name for each in calls]) == ("", ["weather"])


def test_attack_a_name_or_a_schema_is_never_syntax() -> None:
    hostile = CallableTool('x" | /.*/ "\nstart: /.*/', {"type": "object", "description": '"}\nstart: /.*/'}, True)
    assert not takes("qwen-3", matcher("qwen-3", ReplyRule("calls"), [hostile]), ["anything"])
    for rule in (ReplyRule("calls"), ReplyRule("calls or text")):
        matcher("qwen-3", rule, [CallableTool("a/b.*(", {"type": "object"}, True)])


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity"])
def test_numbers_that_json_cannot_write(number: str) -> None:
    tokenizer = vocabulary("qwen-3")[0]
    ids = tokenizer.encode(f'<tool_call>{{"name": "now", "arguments": {{"a": {number}}}}}</tool_call>')
    text, calls = read("qwen-3", ids)
    if calls:
        assert abs(json.loads(calls[0].arguments, parse_constant=pytest.fail)["a"]) > 1e308
    else:
        assert number in text
