"""Encodes a dialog as token ids, in the prompt format that each family of models was trained with.

Control tokens are inserted by id between texts that are encoded separately, so no text of a user can become one.
Llama 2 and the first Mistral models mark turns with tags in plain text ([INST], <<SYS>>): spaces are put into such a
tag inside a message, so that it stays readable and loses its meaning. `special_tags_in` is for callers that refuse it.

Each format takes the dialogs that the models' own templates take: ChatML and Llama 3 any messages in any order, Llama 2
and Mistral only user and assistant in turn (`split_dialog`). Knows no templates.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, TypedDict

from engine.checkpoint.spec import ModelSpec
from engine.errors import InvalidDialog

_TAGS = re.compile(r"\[/?INST\]|<</?SYS>>")
_ROLES = ("system", "user", "assistant")
_ALTERNATION = (
    "this model's chat format needs at most one system message, the first, and then user and assistant in turn, "
    "the user first"
)


class PromptTokenizer(Protocol):
    """The part of a tokenizer that a chat format uses."""

    @property
    def bos_id(self) -> int | None:
        """See Tokenizer."""

    @property
    def eos_id(self) -> int:
        """See Tokenizer."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """See Tokenizer."""

    def encode(self, text: str) -> list[int]:
        """See Tokenizer."""

    def control(self, name: str) -> int:
        """See Tokenizer."""


class Message(TypedDict):
    """One message of a dialog."""

    role: Literal["system", "user", "assistant"]
    content: str


class Pair(NamedTuple):
    """A user message and the reply to it; `reply` None: the one to generate."""

    user: str
    reply: str | None


class ChatFormat(Protocol):
    """The prompt format of one family of models."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end a reply."""

    def encode(self, messages: Sequence[Message], *, continue_last: bool = False) -> list[int]:
        """The prompt for the reply to the dialog. Raises InvalidDialog.

        `continue_last`: the last message is from the assistant and is the beginning of that reply.
        """


def special_tags_in(messages: Sequence[Message]) -> tuple[str, ...]:
    """The Llama 2 tags in the messages, in the order found."""
    return tuple(tag for message in messages for tag in _TAGS.findall(message["content"]))


def without_tags(text: str) -> str:
    """The text with spaces inside each Llama 2 tag: `[INST]` becomes `[ INST ]`."""
    return _TAGS.sub(lambda tag: re.sub(r"^(\[|<<)(.*?)(\]|>>)$", r"\1 \2 \3", tag[0]), text)


def split_dialog(messages: Sequence[Message], *, continue_last: bool = False) -> tuple[str | None, list[Pair]]:
    """The system prompt and the pairs. Raises InvalidDialog unless user and assistant alternate.

    The last pair has no reply yet; with `continue_last` it has the beginning of one.
    """
    check_messages(messages, continue_last=continue_last)
    turns = list(messages)
    system = turns.pop(0)["content"] if turns[0]["role"] == "system" else None
    offset = len(messages) - len(turns)
    if not turns:
        raise InvalidDialog("a dialog needs a message from the user")
    for n, message in enumerate(turns):
        expected = "user" if n % 2 == 0 else "assistant"
        if message["role"] != expected:
            problem = f"expected the role {expected!r}, found {message['role']!r}: {_ALTERNATION}"
            raise InvalidDialog(problem, index=offset + n)
    if not continue_last and len(turns) % 2 == 0:
        raise InvalidDialog("the last message must be from the user", index=len(messages) - 1)
    texts: list[str | None] = [*(message["content"] for message in turns), None]
    return system, [Pair(user or "", reply) for user, reply in zip(texts[::2], texts[1::2], strict=False)]


def check_messages(messages: Sequence[Message], *, continue_last: bool = False, tools: bool = False) -> None:
    """Raises InvalidDialog for no messages, an unknown role or invalid text. `tools`: the role "tool" is known."""
    if not messages:
        raise InvalidDialog("a dialog needs a message")
    for index, message in enumerate(messages):
        _check_message(message, index, (*_ROLES, "tool") if tools else _ROLES)
    if continue_last and messages[-1]["role"] != "assistant":
        raise InvalidDialog("the message to continue must be from the assistant", index=len(messages) - 1)


def _check_message(message: Message, index: int, roles: Sequence[str]) -> None:
    role: object = message.get("role")  # a script may pass anything
    content: object = message.get("content")
    if role not in roles:
        known = "system, user, assistant or, after a call, tool" if "tool" in roles else "system, user or assistant"
        raise InvalidDialog(f"the role must be {known}, not {role!r}", index=index)
    if not isinstance(content, str):
        raise InvalidDialog(f"the content must be text, not {type(content).__name__}", index=index)
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise InvalidDialog("the content is not valid Unicode", index=index) from error


class Llama2Format:
    """`<s>[INST] <<SYS>>…<</SYS>> user [/INST] reply </s><s>[INST] user [/INST]`, as in Meta's llama/generation.py.

    Each pair is encoded separately; the space before the end-of-text token is Meta's too.
    """

    def __init__(self, spec: ModelSpec, tokenizer: PromptTokenizer) -> None:
        self._tokenizer, self.stop_ids = tokenizer, tokenizer.stop_ids
        self._bos, self._eos = _required_bos(tokenizer), tokenizer.eos_id

    def encode(self, messages: Sequence[Message], *, continue_last: bool = False) -> list[int]:
        """See ChatFormat."""
        system, pairs = split_dialog(messages, continue_last=continue_last)
        ids: list[int] = []
        for n, (user, reply) in enumerate(pairs):
            user = without_tags(user)
            if n == 0 and system is not None:
                user = f"<<SYS>>\n{without_tags(system)}\n<</SYS>>\n\n{user}"
            text = f"[INST] {user.strip()} [/INST]"
            if reply is None:
                ids += [self._bos, *self._tokenizer.encode(text)]
                continue
            reply = without_tags(reply).strip()
            if continue_last and n == len(pairs) - 1:
                ids += [self._bos, *self._tokenizer.encode(f"{text} {reply}" if reply else text)]
            else:
                ids += [self._bos, *self._tokenizer.encode(f"{text} {reply} "), self._eos]
        return ids


class MistralFormat:
    """Mistral's four formats of dialogs, as mistral-common makes them; the vocabulary tells which one was trained.

    v1 (no control token `[INST]`): `<s>[INST] system\\n\\nuser [/INST] reply</s>[INST] user [/INST]` in plain text.
    v2 and v3 (`[INST]` and `[/INST]` are control tokens): the system text precedes the *last* message of the user, and
    spaces at the end of a reply are dropped. They differ in tool calls only, which are not supported here.
    v7 (`[SYSTEM_PROMPT]` as well): `<s>[SYSTEM_PROMPT]system[/SYSTEM_PROMPT][INST]user[/INST]reply</s>…`.
    Tekken's vocabularies (Nemo and later) have the same control tokens and the same formats.
    """

    def __init__(self, spec: ModelSpec, tokenizer: PromptTokenizer) -> None:
        self._tokenizer, self.stop_ids = tokenizer, tokenizer.stop_ids
        self._bos, self._eos = _required_bos(tokenizer), tokenizer.eos_id
        self._inst_ids = _control_pair(tokenizer, "INST")
        self._system_ids = _control_pair(tokenizer, "SYSTEM_PROMPT") if self._inst_ids else None

    def encode(self, messages: Sequence[Message], *, continue_last: bool = False) -> list[int]:
        """See ChatFormat."""
        system, pairs = split_dialog(messages, continue_last=continue_last)
        ids = [self._bos]
        if system is not None and self._system_ids is not None:
            ids += [self._system_ids[0], *self._tokenizer.encode(system), self._system_ids[1]]
            system = None
        with_system = 0 if self._inst_ids is None else len(pairs) - 1
        for n, (user, reply) in enumerate(pairs):
            ids += self._instruction(f"{system}\n\n{user}" if system and n == with_system else user)
            if reply is not None:
                ids += [*self._reply(reply), self._eos]
        return ids[:-1] if continue_last else ids

    def _instruction(self, user: str) -> list[int]:
        if self._inst_ids is None:
            return self._tokenizer.encode(f"[INST] {without_tags(user)} [/INST]")
        return [self._inst_ids[0], *self._tokenizer.encode(user), self._inst_ids[1]]

    def _reply(self, reply: str) -> list[int]:
        return self._tokenizer.encode(without_tags(reply) if self._inst_ids is None else reply.rstrip(" "))


class ChatMLFormat:
    """`<|im_start|>role\\n…<|im_end|>\\n`, with the model's default system prompt if the dialog has none."""

    def __init__(self, spec: ModelSpec, tokenizer: PromptTokenizer) -> None:
        self._tokenizer, self._default_system = tokenizer, spec.default_system
        self._start, self._end = tokenizer.control("<|im_start|>"), tokenizer.control("<|im_end|>")
        self.stop_ids = tokenizer.stop_ids | {self._end}

    def encode(self, messages: Sequence[Message], *, continue_last: bool = False) -> list[int]:
        """See ChatFormat."""
        check_messages(messages, continue_last=continue_last)
        ids: list[int] = []
        if messages[0]["role"] != "system" and self._default_system is not None:
            ids += self._message("system", self._default_system)
        for message in messages[:-1] if continue_last else messages:
            ids += self._message(message["role"], message["content"])
        reply = messages[-1]["content"] if continue_last else ""
        return [*ids, self._start, *self._tokenizer.encode(f"assistant\n{reply}")]

    def _message(self, role: str, content: str) -> list[int]:
        encode = self._tokenizer.encode
        return [self._start, *encode(f"{role}\n{content}"), self._end, *encode("\n")]


class Llama3Format:
    """`<|begin_of_text|>`, then `<|start_header_id|>role<|end_header_id|>\\n\\n…<|eot_id|>` for each message."""

    def __init__(self, spec: ModelSpec, tokenizer: PromptTokenizer) -> None:
        self._tokenizer = tokenizer
        self._begin, self._end_of_turn = tokenizer.control("<|begin_of_text|>"), tokenizer.control("<|eot_id|>")
        self._header = tokenizer.control("<|start_header_id|>"), tokenizer.control("<|end_header_id|>")
        self.stop_ids = tokenizer.stop_ids | {self._end_of_turn}

    def encode(self, messages: Sequence[Message], *, continue_last: bool = False) -> list[int]:
        """See ChatFormat."""
        check_messages(messages, continue_last=continue_last)
        ids = [self._begin]
        for message in messages[:-1] if continue_last else messages:
            ids += [*self._open(message["role"]), *self._text(message["content"].strip()), self._end_of_turn]
        reply = messages[-1]["content"].strip() if continue_last else ""
        return [*ids, *self._open("assistant"), *self._text(reply)]

    def _open(self, role: str) -> list[int]:
        return [self._header[0], *self._tokenizer.encode(role), self._header[1]]

    def _text(self, content: str) -> list[int]:
        """Encoded in two parts, as in Meta's llama3: the blank line never merges with the text into one token."""
        return [*self._tokenizer.encode("\n\n"), *(self._tokenizer.encode(content) if content else [])]


def _required_bos(tokenizer: PromptTokenizer) -> int:
    if tokenizer.bos_id is None:
        raise KeyError("beginning of text")
    return tokenizer.bos_id


def _control_pair(tokenizer: PromptTokenizer, name: str) -> tuple[int, int] | None:
    """The control tokens `[name]` and `[/name]`, None if the vocabulary has none."""
    try:
        return tokenizer.control(f"[{name}]"), tokenizer.control(f"[/{name}]")
    except KeyError:
        return None
