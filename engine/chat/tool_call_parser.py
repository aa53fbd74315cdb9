"""Parses the text of tool calls: names and arguments. Knows how each family of models writes calls; knows no tokens."""

import json
import re
import sys
from typing import Any, Literal

ToolFamily = Literal["hermes", "mistral", "llama3"]
_MISTRAL_ITEM = re.compile(r"\s*([\w.-]+)(?:\[CALL_ID\]\w*)?\[ARGS\](.*)", re.DOTALL)


def parse_calls(body: str, family: ToolFamily) -> list[tuple[str, str]]:
    """Name and arguments of each call; empty unless the whole text can be read."""
    if family == "mistral":
        items = [_MISTRAL_ITEM.fullmatch(part) for part in body.split("[TOOL_CALLS]")]
        if all(items):
            values = [{"name": item[1], "arguments": _json(item[2])} for item in items if item]
        else:
            listed = _json(body)
            values = listed if isinstance(listed, list) else [listed]
    elif family == "llama3":
        values = _json_objects(body.strip().removeprefix("<|python_tag|>"))
    else:
        values = [_json(body)]
    calls = [_call(value) for value in values]
    return [] if None in calls else [call for call in calls if call is not None]


def _call(value: Any) -> tuple[str, str] | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        arguments = _json(arguments)
    if not isinstance(arguments, dict):
        return None
    return value["name"], json.dumps(arguments, ensure_ascii=False)


def _json_objects(text: str) -> list[Any]:
    """The objects in a text, which semicolons may part; [None] if there is anything else."""
    values, at = [], 0
    text = text.strip()
    while at < len(text):
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError):
            return [None]
        values.append(value)
        while at < len(text) and (text[at].isspace() or text[at] == ";"):
            at += 1
    return values


def _json(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def _finite(number: str) -> float:
    """The largest number instead of infinity, which JSON cannot write."""
    return max(-sys.float_info.max, min(sys.float_info.max, float(number)))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_float=_finite, parse_constant=_refuse_constant)
