"""The chat template that comes with a model: its text, and the tokens that it writes by name. Never executed here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.checkpoint.files import Json, is_listed, read_bytes, read_json

DEFAULT, WITH_TOOLS = "default", "tool_use"
"""Names of templates, where a model has several."""


@dataclass(frozen=True, slots=True)
class StoredTemplate:
    """`source` in Jinja; `origin`: the file or key it is from. `with_tools`: another one for dialogs with tools.

    `special_tokens`: texts by the names that templates use (`bos_token`), where a file gives them.
    """

    source: str
    origin: str
    with_tools: str | None = None
    special_tokens: Mapping[str, str] = field(default_factory=dict)


def template_of_folder(path: Path, settings: Json, special_tokens_map: Json) -> StoredTemplate | None:
    """Of a Hugging Face folder: `chat_template.jinja`, else `tokenizer_config.json` (one, or a list of named ones).

    `settings`: the content of the latter. Older multimodal models have `chat_template.json` instead.
    """
    found: dict[str, str] = {}
    origin = "chat_template.jinja"
    if is_listed(path / origin):
        found[DEFAULT] = read_bytes(path / origin).decode("utf-8", "replace")
    else:
        origin = "tokenizer_config.json"
        found = _named(settings.get("chat_template"))
        if not found and is_listed(path / "chat_template.json"):
            origin = "chat_template.json"
            found = _named(read_json(path / origin).get("chat_template"))
    more = path / "additional_chat_templates" / f"{WITH_TOOLS}.jinja"
    if more.is_file():
        found[WITH_TOOLS] = read_bytes(more).decode("utf-8", "replace")
    return _stored(found, origin, _special_tokens(special_tokens_map) | _special_tokens(settings))


def template_of_gguf(metadata: Mapping[str, Any]) -> StoredTemplate | None:
    """The templates in a GGUF file's metadata, with the texts of its special tokens."""
    key = "tokenizer.chat_template"
    names = {DEFAULT: key, WITH_TOOLS: f"{key}.{WITH_TOOLS}"}
    found = {name: metadata[k] for name, k in names.items() if isinstance(metadata.get(k), str)}
    kinds = {"bos": "bos", "eos": "eos", "unknown": "unk", "padding": "pad"}
    special: dict[str, str] = {}
    listed = metadata.get("tokenizer.ggml.tokens")
    tokens = listed if isinstance(listed, list) else []
    for kind, name in kinds.items():
        number = metadata.get(f"tokenizer.ggml.{kind}_token_id")
        if isinstance(number, int) and 0 <= number < len(tokens):
            special[f"{name}_token"] = str(tokens[number])
    return _stored(found, key, special)


def _stored(found: Mapping[str, str], origin: str, special_tokens: Mapping[str, str]) -> StoredTemplate | None:
    source = found.get(DEFAULT) or found.get(WITH_TOOLS)
    if not source:
        return None
    return StoredTemplate(source, origin, found.get(WITH_TOOLS), special_tokens)


def _named(value: object) -> dict[str, str]:
    if isinstance(value, str):
        return {DEFAULT: value} if value else {}
    entries = value if isinstance(value, list) else []
    pairs = [(entry.get("name"), entry.get("template")) for entry in entries if isinstance(entry, dict)]
    return {name: text for name, text in pairs if isinstance(name, str) and isinstance(text, str)}


def _special_tokens(values: Json) -> dict[str, str]:
    """`bos_token` and its like, each a text or an object with `content`."""
    found: dict[str, str] = {}
    for name, value in values.items():
        text = value.get("content") if isinstance(value, dict) else value
        if name.endswith("_token") and isinstance(text, str):
            found[name] = text
    return found
