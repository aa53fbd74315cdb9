"""One chat template: compiled once, rendered for each dialog to a text of which every character has its writer.

A template has the variables that transformers gives it. Unlike there, its work is bounded, and only its own words can
become control tokens. Knows no tokenizer.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, meta
from jinja2.environment import Template

from engine.chat.limits import Budget, TemplateLimitError, budget, plain_size, spending
from engine.chat.provenance import CONTINUATION, SourcedText, by_template, concat, writers_of
from engine.chat.sandbox import DialogRefusedError, Sandbox

MAX_TEMPLATE_CHARS = 1 << 18
_CONTINUATION = "\u241f "  # a visible mark and a space; a template that trims drops the space
_SANDBOX = Sandbox()
_ROLES = {name: by_template(name) for name in ("system", "user", "assistant", "developer", "tool", "ipython")}
_GIVEN = frozenset(("messages", "add_generation_prompt", "bos_token", "eos_token", "unk_token", "pad_token", "tools"))


class BrokenTemplateError(Exception):
    """The template cannot be used, whatever the dialog is; the message says why in one line."""


class ChatTemplate:
    """A compiled template. Raises BrokenTemplateError if it is none."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """`special_tokens`: the texts of `bos_token`, `eos_token` and others that templates write."""
        self.source = source
        if len(source) > MAX_TEMPLATE_CHARS:
            raise BrokenTemplateError(f"more than {MAX_TEMPLATE_CHARS:,} characters")
        try:
            self._template: Template = _SANDBOX.from_string(source)
            names = meta.find_undeclared_variables(_SANDBOX.parse(source))
        except TemplateSyntaxError as error:
            raise BrokenTemplateError(f"line {error.lineno}: {error.message}") from error
        except (TemplateError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise BrokenTemplateError(f"{type(error).__name__}: {error}") from error
        self.reads_messages, self.reads_tools = "messages" in names, "tools" in names
        self.variables = frozenset(names - _GIVEN - set(_SANDBOX.globals))
        """The variables that a request may set, such as `enable_thinking`."""
        self._special_tokens = {name: by_template(text) for name, text in special_tokens.items()}

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        variables: Mapping[str, object] | None = None,
        *,
        add_generation_prompt: bool = True,
        seconds: float | None = None,
    ) -> str:
        """The prompt. Raises DialogRefusedError, BrokenTemplateError, TemplateLimitError."""
        limit = {} if seconds is None else {"seconds": seconds}
        with spending(Budget(num_messages=len(messages), num_chars=plain_size(messages), **limit)):
            values = {
                "tools": None,
                "documents": None,
                **self._special_tokens,
                **(variables or {}),
                "messages": [{**message, "role": _ROLES.get(message["role"], message["role"])} for message in messages],
                "add_generation_prompt": add_generation_prompt,
            }
            return self._render(values)

    def render_beginning(
        self, messages: Sequence[Mapping[str, Any]], variables: Mapping[str, object] | None = None
    ) -> str:
        """The prompt whose last message, the assistant's, is the beginning of the reply; raises what `render` does."""
        content = messages[-1]["content"]
        mark = SourcedText(_CONTINUATION, bytes([CONTINUATION]) * len(_CONTINUATION))
        marked = [*messages[:-1], {**messages[-1], "content": concat((content, mark))}]
        text = self.render(marked, variables, add_generation_prompt=False)
        end = writers_of(text).rfind(CONTINUATION)
        if end < 0:
            raise DialogRefusedError("the last message of the assistant cannot be continued")
        start = writers_of(text).find(CONTINUATION)
        if end - start + 1 == len(_CONTINUATION):
            return text[:start]
        return text[: len(str.rstrip(text[:start]))]

    def _render(self, values: Mapping[str, object]) -> str:
        parts: list[str] = []
        try:
            for text in self._template.root_render_func(self._template.new_context(dict(values))):
                budget().chars(len(text))
                parts.append(text)
            return concat(parts)
        except (DialogRefusedError, TemplateLimitError, BrokenTemplateError):
            raise
        except RecursionError as error:
            raise TemplateLimitError("it calls itself too deeply") from error
        except MemoryError as error:
            raise TemplateLimitError("it needs too much memory") from error
        except Exception as error:  # a template may fail in any way that Python can
            raise BrokenTemplateError(f"{type(error).__name__}: {error}") from error
