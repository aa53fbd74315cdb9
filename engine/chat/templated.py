"""A dialog to token ids by the model's own template: the `ChatFormat` of every model that has one.

The template gets the texts unchanged. Each character of the prompt has its writer (`provenance`), and only the
template's own words may be control tokens. Some marks are plain text (`[INST]` of the first Mistral models, `<|user|>`
of Zephyr, `<think>`): in a member's words they get a space, so that they stay readable and lose their meaning. Knows
templates and tokenizers; knows no requests.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from engine.chat.adaptation import adapted, dialog_rules
from engine.chat.formats import Message, PromptTokenizer, check_messages
from engine.chat.limits import TemplateLimitError
from engine.chat.provenance import OTHERS, TEMPLATE, writers_of
from engine.chat.reasoning import find_reasoning
from engine.chat.sandbox import DialogRefusedError
from engine.chat.template import BrokenTemplateError, ChatTemplate
from engine.chat.tool_calls import find_tool_format
from engine.errors import InvalidDialog, clipped
from engine.tokenizers.marked import ControlNames
from engine.tokenizers.ordinary import looks_like_control

THINKING = ("enable_thinking", "thinking")
"""The variables with which templates switch reasoning on. Off, unless a request says otherwise."""
_MAX_QUOTE = 300
_MARK = re.compile(r"<[|\uff5c][^<>|\uff5c\s]+[|\uff5c]>|\[/?[A-Z_]+\]|<</?[A-Z]+>>|</?[a-z_]+>")
_ANY_TURN = "Kqz{}turn"


class MarkedTokenizer(PromptTokenizer, Protocol):
    """The part of a tokenizer that a template uses."""

    def encode_marked(self, text: str, trusted: bytes) -> list[int]:
        """See Tokenizer."""

    @property
    def controls(self) -> Mapping[str, int]:
        """See Tokenizer."""


class TemplatedFormat:
    """`template` with its tokenizer. Raises BrokenTemplateError if it takes no dialog at all."""

    def __init__(
        self, template: ChatTemplate, tokenizer: MarkedTokenizer, with_tools: ChatTemplate | None = None
    ) -> None:
        """Renders small dialogs to learn which ones the template takes. `with_tools`: another template, for tools."""
        self._with_tools = with_tools or template
        self._template, self._tokenizer = template, tokenizer
        self.variables = template.variables
        self._defaults = {name: False for name in THINKING if name in self.variables}
        self._marks = _pattern_of(_text_marks(template.source, tokenizer))
        self.reasoning = find_reasoning(template.source, tokenizer)
        """How the model marks its reasoning; None if it has no marks."""
        self.tools = find_tool_format(self._with_tools.source, tokenizer) if self._with_tools.reads_tools else None
        """How the model writes tool calls; None if its template takes no tools."""
        self._rules = dialog_rules(template)
        self.stop_ids = tokenizer.stop_ids | self._end_of_turn()

    def encode(
        self,
        messages: Sequence[Message],
        *,
        continue_last: bool = False,
        variables: Mapping[str, object] | None = None,
        tools: Sequence[Mapping[str, object]] = (),
    ) -> list[int]:
        """See ChatFormat. `variables`: the request's `chat_template_kwargs`; `tools`: functions as OpenAI defines them.

        With them, messages may have `tool_calls`, or the role "tool".
        """
        template = self._with_tools if tools else self._template
        check_messages(messages, continue_last=continue_last, tools=self.tools is not None)
        given = self._defaults | dict(variables or {}) | ({"tools": list(tools)} if tools else {})
        turns = adapted(self._answers(messages, continue_last), self._rules)
        try:
            text = template.render_beginning(turns, given) if continue_last else template.render(turns, given)
        except DialogRefusedError as error:
            problem = f"refuses the dialog: {clipped(str(error), _MAX_QUOTE)}"
            raise InvalidDialog(f"this model's chat template {problem}") from error
        except (BrokenTemplateError, TemplateLimitError) as error:
            problem = f"cannot render the dialog: {clipped(str(error), _MAX_QUOTE)}"
            raise InvalidDialog(f"this model's chat template {problem}") from error
        return self._encode(text)

    def _answers(self, messages: Sequence[Message], continue_last: bool) -> Sequence[Message]:
        """The dialog without the reasoning of earlier turns."""
        reasoning = self.reasoning
        if reasoning is None:
            return messages
        last = len(messages) - 1 if continue_last else -1
        return [
            {**message, "content": reasoning.without_reasoning(message["content"])}
            if message["role"] == "assistant" and index != last
            else message
            for index, message in enumerate(messages)
        ]

    def _encode(self, text: str) -> list[int]:
        plain, writers = self._defused(str.__str__(text), writers_of(text))
        return self._tokenizer.encode_marked(plain, writers)

    def _defused(self, text: str, writers: bytes) -> tuple[str, bytes]:
        """The text with a space in each mark that the template did not write."""
        if self._marks is None:
            return text, writers
        places = [
            match.start() + 1
            for match in self._marks.finditer(text)
            if writers.count(TEMPLATE, match.start(), match.end()) < len(match[0])
        ]
        if not places:
            return text, writers
        bounds = [0, *places, len(text)]
        pieces = list(pairwise(bounds))
        return " ".join(text[a:b] for a, b in pieces), bytes([OTHERS]).join(writers[a:b] for a, b in pieces)

    def _end_of_turn(self) -> frozenset[int]:
        """The control token that the template writes after a reply, which ends the one that is generated."""
        if "<|channel|>" in self._template.source:  # of harmony, where it only ends a part of a reply
            return frozenset()
        reply, later = _ANY_TURN.format("reply"), _ANY_TURN.format("later")
        dialog = [("user", _ANY_TURN.format("first")), ("assistant", reply), ("user", later)]
        text = self._template.render([{"role": role, "content": content} for role, content in dialog], self._defaults)
        start, end = text.find(reply) + len(reply), text.find(later)
        spans = ControlNames(self._tokenizer.controls).spans(text, writers_of(text))
        first = next((span for span in spans if start <= span.start < end), None)
        return frozenset() if first is None or text[start : first.start].strip() else frozenset((first.token_id,))


def _text_marks(source: str, tokenizer: MarkedTokenizer) -> list[str]:
    """The marks that the template writes and that are no control tokens."""
    names = {name for name in _MARK.findall(source) if name not in tokenizer.controls}
    plain_tags = (name for name in names if re.fullmatch(r"</?[a-z_]+>", name) and not looks_like_control(name))
    return sorted(names - {name for name in plain_tags if len(tokenizer.encode(name)) != 1})


def _pattern_of(names: list[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True)))) if names else None
