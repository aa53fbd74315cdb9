"""Chooses how dialogs become prompts: by the operator's template, by the model's own, or by a built-in format.

Knows the model's files and the built-in formats; knows neither requests nor HTTP.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.chat.formats import ChatFormat, ChatMLFormat, Llama2Format, Llama3Format, MistralFormat, PromptTokenizer
from engine.chat.template import MAX_TEMPLATE_CHARS, BrokenTemplateError, ChatTemplate
from engine.chat.templated import MarkedTokenizer, TemplatedFormat
from engine.checkpoint.chat_template import StoredTemplate
from engine.checkpoint.spec import ModelSpec
from engine.errors import ConfigError

FLAG = "--chat-template"
_BUILT_IN: dict[str, Callable[[ModelSpec, PromptTokenizer], ChatFormat]] = {
    "llama2": Llama2Format,
    "llama3": Llama3Format,
    "chatml": ChatMLFormat,
    "mistral": MistralFormat,
}


@dataclass(frozen=True, slots=True)
class ChosenFormat:
    """`description`: where the format is from, in words for a log."""

    format: ChatFormat
    description: str


def choose_format(spec: ModelSpec, tokenizer: MarkedTokenizer, template_file: str | Path | None = None) -> ChosenFormat:
    """The template of `template_file`, the model's own, or the built-in format of its family. Raises ConfigError."""
    stored, source = spec.chat_template, ""
    if template_file is not None:
        source = f"{FLAG} {template_file}"
        special_tokens = stored.special_tokens if stored else {}
        stored = StoredTemplate(_read(Path(template_file)), str(template_file), special_tokens=special_tokens)
    elif stored is not None:
        source = f"the model's {stored.origin}"
    if stored is None:
        return ChosenFormat(
            _built_in(spec, tokenizer), f"the built-in format {spec.chat}, since its files have no template"
        )
    special_tokens = {**_special_tokens(tokenizer), **stored.special_tokens}
    try:
        template = ChatTemplate(stored.source, special_tokens)
        if not template.reads_messages and template_file is None and spec.chat in _BUILT_IN:
            reason = f"since {source} reads no messages"
            return ChosenFormat(_built_in(spec, tokenizer), f"the built-in format {spec.chat}, {reason}")
        with_tools = ChatTemplate(stored.with_tools, special_tokens) if stored.with_tools else None
        return ChosenFormat(TemplatedFormat(template, tokenizer, with_tools), f"the template of {source}")
    except BrokenTemplateError as error:
        raise ConfigError(
            source,
            expected="a chat template that renders a dialog",
            found=f"{error}; {FLAG} FILE (GUILDLLAMA_CHAT_TEMPLATE) gives the model another one",
        ) from error


def chat_format(spec: ModelSpec, tokenizer: MarkedTokenizer, template_file: str | Path | None = None) -> ChatFormat:
    """`choose_format` without the words."""
    return choose_format(spec, tokenizer, template_file).format


def _built_in(spec: ModelSpec, tokenizer: PromptTokenizer) -> ChatFormat:
    """The built-in format of the model's family. ConfigError if the vocabulary lacks a control token of it."""
    try:
        return _BUILT_IN[spec.chat](spec, tokenizer)
    except KeyError as error:
        raise ConfigError("tokenizer", expected=f"the control token {error}", found="none of that name") from error


def _special_tokens(tokenizer: MarkedTokenizer) -> dict[str, str]:
    names = {i: name for name, i in tokenizer.controls.items()}
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
    return {key: names[i] for key, i in ids.items() if i in names}


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(4 * MAX_TEMPLATE_CHARS + 1)
        text = content.decode()
    except OSError as error:
        raise ConfigError(f"{FLAG} {path}", expected="a readable file", found=str(error.strerror)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{FLAG} {path}", expected="a Jinja template in UTF-8", found="other bytes") from error
    if not text.strip():
        raise ConfigError(f"{FLAG} {path}", expected="a Jinja template", found="nothing in it")
    return text
