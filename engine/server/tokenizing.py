"""Texts and dialogs of requests to token ids, without keeping the event loop from other requests.

Short texts are encoded at once, longer ones and dialogs that a template renders on other threads. Long texts are
encoded one at a time, so that their memory does not add up, and only MAX_LONG_WAITING of them may wait. A text that
cannot fit the context is refused before it is encoded. Knows the loaded model; submits nothing.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from engine.errors import InvalidDialog
from engine.server.protocol.errors import RequestError, rate_limited

if TYPE_CHECKING:
    from engine.chat.formats import Message
    from engine.server.loaded_model import LoadedModel

T = TypeVar("T")
Variables = Mapping[str, object]
MAX_INLINE_CHARS = 4096  # a longer text is encoded on another thread
MESSAGE_CHARS = 64  # the work for a message's header and marks, in characters of text
LONG_TEXT_CHARS = 1 << 16  # longer texts are encoded one at a time
MAX_LONG_WAITING = 64  # texts; more are refused with 429
MIN_REFUSED_BYTES = 1 << 17  # a shorter text is encoded even if it cannot fit, so that the error has its exact length


class PromptTokenization:
    """Encodes the prompts of a server's requests. Belongs to one event loop."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "tokenize-long")
        self._medium_executor = ThreadPoolExecutor(2, "tokenize")  # more would only wait for Python's lock
        self._num_long = 0

    async def dialog(
        self,
        loaded: "LoadedModel",
        messages: "Sequence[Message]",
        *,
        continue_last: bool = False,
        variables: Variables | None = None,
        tools: Sequence[Variables] = (),
    ) -> list[int]:
        """The prompt for the reply to the dialog; `variables` and `tools` are for its template. Raises RequestError."""
        texts = [message["content"] for message in messages]
        _refuse_calls(loaded, messages)
        encode = _dialog_encoder(loaded, continue_last, variables, tools)
        try:
            return await self._run(loaded, texts, "messages", lambda: encode(messages))
        except InvalidDialog as error:
            raise _invalid_dialog(error, error.index) from error

    async def fitting_dialog(
        self,
        loaded: "LoadedModel",
        messages: "Sequence[Message]",
        max_tokens: int,
        *,
        continue_last: bool = False,
        variables: Variables | None = None,
        tools: Sequence[Variables] = (),
    ) -> tuple[list[int], int]:
        """The prompt without the oldest exchanges, as few as needed for `max_tokens`, and how many messages those have.

        Messages of the system at the beginning stay, and so does the last exchange, even if it does not fit. Raises
        RequestError.
        """
        _refuse_calls(loaded, messages)
        prefix = next((index for index, message in enumerate(messages) if message["role"] != "system"), 0)
        starts = _exchange_starts(messages, prefix)
        while len(starts) > 1 and _min_tokens(loaded, [*messages[:prefix], *messages[starts[0] :]]) > max_tokens:
            del starts[0]  # without encoding it

        encode_dialog = _dialog_encoder(loaded, continue_last, variables, tools)

        def encode(start: int) -> list[int]:
            return encode_dialog([*messages[:prefix], *messages[start:]])

        def search() -> tuple[list[int], int]:
            low, high = 0, len(starts) - 1
            prompts = {low: encode(starts[low])}
            if len(prompts[low]) > max_tokens and high:
                low = 1
                while low < high:
                    middle = (low + high) // 2
                    prompts[middle] = encode(starts[middle])
                    low, high = (low, middle) if len(prompts[middle]) <= max_tokens else (middle + 1, high)
            return prompts.get(low) or encode(starts[low]), starts[low]

        kept = [*messages[:prefix], *messages[starts[0] :]]
        try:
            ids, start = await self._run(loaded, [message["content"] for message in kept], "messages", search)
        except InvalidDialog as error:
            index = error.index
            shift = starts[0] - prefix if index is not None and index >= prefix else 0
            raise _invalid_dialog(error, None if index is None else index + shift) from error
        return ids, start - prefix

    async def text(self, loaded: "LoadedModel", text: str, *, special_tokens: bool) -> list[int]:
        """The ids of a prompt. `special_tokens`: with the beginning-of-text token. Raises RequestError."""
        ids = await self._run(loaded, [text], "prompt", lambda: loaded.encoder.encode(text))
        return _with_bos(loaded, ids) if special_tokens else ids

    async def _run(self, loaded: "LoadedModel", texts: Sequence[str], param: str, encode: Callable[[], T]) -> T:
        """The result of `encode`, which encodes the texts."""
        size = sum(map(len, texts)) + MESSAGE_CHARS * len(texts)
        if size <= MAX_INLINE_CHARS and (loaded.template is None or param != "messages"):
            return encode()
        loop = asyncio.get_running_loop()
        if size <= LONG_TEXT_CHARS:
            return await loop.run_in_executor(self._medium_executor, encode)
        await loop.run_in_executor(self._medium_executor, _refuse_if_far_too_long, loaded, texts, param)
        if self._num_long >= MAX_LONG_WAITING:
            raise rate_limited("Too many long prompts are being tokenized.", 5)
        self._num_long += 1
        try:
            return await loop.run_in_executor(self._executor, encode)
        finally:
            self._num_long -= 1


def context_length_exceeded(limit: int, got: int, param: str, *, exact: bool = True) -> RequestError:
    """The error for a prompt of `got` tokens, or of more if not `exact`."""
    count = f"{got}" if exact else f"at least {got}"
    return RequestError(
        f"This model's maximum context length is {limit} tokens. However, your {param} resulted in {count} tokens, "
        f"which leaves no room for a reply. Please reduce the length of the {param}.",
        param=param,
        code="context_length_exceeded",
    )


def check_vocabulary(loaded: "LoadedModel", ids: list[int], param: str) -> list[int]:
    """The ids that a client sent. Raises RequestError if the vocabulary lacks one."""
    size = loaded.tokenizer.vocab_size
    if ids and max(ids) >= size:
        message = f"'{param}' holds an id that the vocabulary of {size} tokens lacks."
        raise RequestError(message, param=param, code="invalid_value")
    return ids


def _dialog_encoder(
    loaded: "LoadedModel", continue_last: bool, variables: Variables | None, tools: Sequence[Variables]
) -> "Callable[[Sequence[Message]], list[int]]":
    """What encodes a dialog. Raises RequestError for variables and tools that the model's template does not take."""
    from engine.chat.templated import THINKING

    known = loaded.template.variables if loaded.template is not None else frozenset()
    for name, value in (variables or {}).items():
        if name not in known and not (name in THINKING and value is False):
            param = f"chat_template_kwargs.{name}"
            reason = "this model's chat template has no such variable"
            raise RequestError(f"'{param}': {reason}.", param=param, code="unsupported_parameter")
    template = loaded.template
    if tools and (template is None or template.tools is None):
        reason = "this model's chat template takes no tools, or calls them in a format that is not known here"
        raise RequestError(f"'tools': {reason}.", param="tools", code="unsupported_parameter")
    if template is None:
        return lambda messages: loaded.chat.encode(messages, continue_last=continue_last)
    return lambda messages: template.encode(messages, continue_last=continue_last, variables=variables, tools=tools)


def _refuse_calls(loaded: "LoadedModel", messages: "Sequence[Message]") -> None:
    """Raises RequestError for tool calls in a dialog whose format has no place for them."""
    if loaded.template is None or loaded.template.tools is None:
        index = next((n for n, message in enumerate(messages) if "tool_calls" in message), None)
        if index is not None:
            param = f"messages[{index}].tool_calls"
            message = f"'{param}' is not supported: this model's chat format has no tool calls."
            raise RequestError(message, param=param, code="unsupported_parameter")


def _exchange_starts(messages: "Sequence[Message]", first: int) -> list[int]:
    """Where exchanges begin: at `first`, and at each user's message that follows the assistant's."""
    later = range(first + 1, len(messages))
    roles = [message["role"] for message in messages]
    return [first, *(index for index in later if roles[index] == "user" and roles[index - 1] == "assistant")]


def _min_tokens(loaded: "LoadedModel", messages: "Sequence[Message]") -> int:
    return loaded.encoder.min_tokens(_num_bytes([message["content"] for message in messages]))


def _num_bytes(texts: Sequence[str]) -> int:
    return sum(len(text.strip().encode(errors="replace")) for text in texts)  # some chat formats strip the texts


def _invalid_dialog(error: InvalidDialog, index: int | None) -> RequestError:
    if index is None:
        return RequestError(f"{error.problem}.", param="messages", code="invalid_dialog")
    param = f"messages[{index}]"
    return RequestError(f"{param}: {error.problem}.", param=param, code="invalid_dialog")


def _refuse_if_far_too_long(loaded: "LoadedModel", texts: Sequence[str], param: str) -> None:
    num_bytes = _num_bytes(texts)
    num_tokens = loaded.encoder.min_tokens(num_bytes)
    if num_bytes >= MIN_REFUSED_BYTES and num_tokens >= loaded.max_context:
        raise context_length_exceeded(loaded.max_context, num_tokens, param, exact=False)


def _with_bos(loaded: "LoadedModel", ids: list[int]) -> list[int]:
    """The one place that decides about the beginning-of-text token of plain prompts."""
    bos = loaded.tokenizer.bos_id
    return [bos, *ids] if bos is not None and loaded.tokenizer.adds_bos else ids
