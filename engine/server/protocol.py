"""What a client may ask of the engine, in OpenAI's words: parsing and validation of the request bodies.

Pure: JSON in, frozen dataclasses out, `RequestError` for everything else. Knows no tokenizer, no model and no HTTP.
What this engine does not do (tools, images, several choices, …) is refused by name; fields nobody knows are ignored,
since clients send the extras of other engines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict, cast

from engine.server.fields import JsonObject, RequestError, array, boolean, integer, mapping, number, string, text

MAX_STOPS = 16
MAX_STOP_CHARS = 1024
MAX_SEED = (1 << 63) - 1
MAX_TOKENS = 1 << 31
MAX_LABEL_CHARS = 512

Role = Literal["system", "user", "assistant"]
_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class Message(TypedDict):
    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Options:
    """How to generate: the part that chat and plain completions share."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    ignore_eos: bool = False
    stream: bool = False
    include_usage: bool = False
    client: str = ""
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    messages: tuple[Message, ...]
    options: Options


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    prompt: str | tuple[int, ...]
    options: Options


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    messages: tuple[Message, ...] | None
    prompt: str
    add_generation_prompt: bool
    add_special_tokens: bool


def parse_chat(body: JsonObject) -> ChatRequest:
    _refuse_unsupported(body)
    return ChatRequest(parse_messages(body), _options(body))


def parse_completion(body: JsonObject) -> CompletionRequest:
    _refuse_unsupported(body)
    for name in ("echo", "suffix"):
        if body.get(name):
            raise _unsupported(name)
    if integer(body, "best_of", 1, MAX_TOKENS) not in (None, 1):
        raise _unsupported("best_of")
    return CompletionRequest(_prompt(body.get("prompt")), _options(body, default_max_tokens=16))


def parse_tokenize(body: JsonObject) -> TokenizeRequest:
    if body.get("messages") is None:
        if body.get("prompt") is None:
            raise RequestError("Either 'messages' or 'prompt' is needed.", param="messages", code="missing_parameter")
        return TokenizeRequest(None, string(body, "prompt"), False, boolean(body, "add_special_tokens", True))
    return TokenizeRequest(parse_messages(body), "", boolean(body, "add_generation_prompt", True), False)


def parse_detokenize(body: JsonObject) -> tuple[int, ...]:
    if body.get("tokens") is None:
        raise RequestError("'tokens' is missing.", param="tokens", code="missing_parameter")
    return _token_ids(array(body["tokens"], "tokens"), "tokens")


def parse_messages(body: JsonObject) -> tuple[Message, ...]:
    if body.get("messages") is None:
        raise RequestError("'messages' is missing.", param="messages", code="missing_parameter")
    entries = array(body["messages"], "messages")
    if not entries:
        raise RequestError("'messages' must hold at least one message.", param="messages", code="invalid_value")
    return tuple(_message(entry, f"messages[{index}]") for index, entry in enumerate(entries))


def _message(value: object, name: str) -> Message:
    entry = mapping(value, name)
    role = entry.get("role")
    if role is None:
        raise RequestError(f"'{name}.role' is missing.", param=f"{name}.role", code="missing_parameter")
    if role in ("tool", "function") or entry.get("tool_calls") or entry.get("function_call"):
        raise _unsupported(f"{name}.role" if role in ("tool", "function") else f"{name}.tool_calls")
    if not isinstance(role, str) or role not in _ROLES:
        message = f"'{name}.role' must be one of system, user, assistant, not {str(role)[:40]!r}."
        raise RequestError(message, param=f"{name}.role", code="invalid_value")
    return {"role": _ROLES[role], "content": _content(entry.get("content"), f"{name}.content", role)}


def _content(value: object, name: str, role: str) -> str:
    if value is None:
        if role == "assistant":  # an empty answer
            return ""
        raise RequestError(f"'{name}' is missing.", param=name, code="missing_parameter")
    if not isinstance(value, list):
        return text(value, name)
    parts = []
    for index, part in enumerate(cast("list[object]", value)):
        entry = mapping(part, f"{name}[{index}]")
        if entry.get("type") not in ("text", "input_text"):
            message = f"'{name}[{index}].type' {str(entry.get('type'))[:40]!r} is not supported: only text is."
            raise RequestError(message, param=f"{name}[{index}].type", code="unsupported_parameter")
        parts.append(text(entry.get("text"), f"{name}[{index}].text"))
    return "\n".join(parts)


def _prompt(value: object) -> str | tuple[int, ...]:
    if value is None:
        raise RequestError("'prompt' is missing.", param="prompt", code="missing_parameter")
    if not isinstance(value, list):
        return text(value, "prompt")
    entries = cast("list[object]", value)
    if len(entries) == 1 and isinstance(entries[0], str | list):  # a batch of one
        return _prompt(entries[0])
    if any(isinstance(entry, str | list) for entry in entries):
        message = "Several prompts in one request are not supported: send one request for each."
        raise RequestError(message, param="prompt", code="unsupported_parameter")
    return _token_ids(entries, "prompt")


def _token_ids(entries: Sequence[object], name: str) -> tuple[int, ...]:
    ids = [
        entry for entry in entries if isinstance(entry, int) and not isinstance(entry, bool) and 0 <= entry < 1 << 31
    ]
    if len(ids) != len(entries):
        raise RequestError(f"'{name}' must hold token ids.", param=name, code="invalid_type")
    return tuple(ids)


def _options(body: JsonObject, default_max_tokens: int | None = None) -> Options:
    streaming = body.get("stream_options")
    include_usage = streaming is not None and boolean(mapping(streaming, "stream_options"), "include_usage", False)
    max_tokens = integer(body, "max_completion_tokens", 1, MAX_TOKENS)
    if max_tokens is None:
        max_tokens = integer(body, "max_tokens", 1, MAX_TOKENS)
    string(body, "model")
    return Options(
        temperature=number(body, "temperature", 1.0, 0.0, 2.0),
        top_p=number(body, "top_p", 1.0, 0.0, 1.0, open_low=True),
        max_tokens=default_max_tokens if max_tokens is None else max_tokens,
        stop=_stops(body.get("stop")),
        seed=integer(body, "seed", -MAX_SEED - 1, MAX_SEED),
        ignore_eos=boolean(body, "ignore_eos", False),
        stream=boolean(body, "stream", False),
        include_usage=include_usage,
        client=_label(body, "user"),
        tenant=_label(body, "cache_salt"),
    )


def _label(body: JsonObject, name: str) -> str:
    value = string(body, name)
    if len(value) > MAX_LABEL_CHARS:
        raise RequestError(f"'{name}' may have at most {MAX_LABEL_CHARS} characters.", param=name, code="invalid_value")
    return value


def _stops(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    entries: list[object] = [value] if isinstance(value, str) else array(value, "stop")
    stops = tuple(text(entry, "stop") for entry in entries)
    if len(stops) > MAX_STOPS:
        message = f"'stop' may hold at most {MAX_STOPS} strings, not {len(stops)}."
    elif any(not stop for stop in stops):
        message = "'stop' must not hold an empty string."
    elif any(len(stop) > MAX_STOP_CHARS for stop in stops):
        message = f"A string in 'stop' may have at most {MAX_STOP_CHARS} characters."
    else:
        return stops
    raise RequestError(message, param="stop", code="invalid_value")


def _unsupported(name: str) -> RequestError:
    return RequestError(f"'{name}' is not supported by this engine.", param=name, code="unsupported_parameter")


def _refuse_unsupported(body: JsonObject) -> None:
    """Fields that would change the answer: ignoring them would be a silent lie. Their neutral values are welcome."""
    for name in ("tools", "functions", "logit_bias", "logprobs", "top_logprobs", "audio", "prediction"):
        if body.get(name):
            raise _unsupported(name)
    for name in ("presence_penalty", "frequency_penalty"):
        if number(body, name, 0.0, -2.0, 2.0) != 0.0:
            raise _unsupported(name)
    response_format = body.get("response_format")
    if response_format is not None and mapping(response_format, "response_format").get("type") != "text":
        raise _unsupported("response_format")
    if integer(body, "n", 1, MAX_TOKENS) not in (None, 1):
        raise RequestError(
            "'n' must be 1: this engine gives one choice a request.", param="n", code="unsupported_parameter"
        )
    modalities = body.get("modalities")
    if modalities is not None and any(entry != "text" for entry in array(modalities, "modalities")):
        raise _unsupported("modalities")
