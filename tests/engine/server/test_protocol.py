"""Request bodies: which values are accepted, and the parameter and code of each error."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.server.errors import RequestError
from engine.server.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeTextRequest,
    validate_tokenize,
)
from engine.server.request_body import parse_json, validate

HELLO = [{"role": "user", "content": "Hello"}]


def body(**fields: object) -> dict[str, object]:
    return {"model": "m", "messages": HELLO, **fields}


def chat(**fields: object) -> ChatRequest:
    return validate(ChatRequest, body(**fields))


def test_the_defaults_are_openai_s() -> None:
    request = chat()
    assert (request.temperature, request.top_p, request.token_limit, request.stop) == (1.0, 1.0, None, [])
    assert (request.seed, request.stream, request.ignore_eos) == (None, False, False)
    assert not request.stream_options.include_usage
    assert validate(CompletionRequest, {"prompt": "x"}).token_limit == 16


def test_every_field_may_be_null_and_unknown_fields_are_ignored() -> None:
    names = (
        "temperature",
        "top_p",
        "max_tokens",
        "max_completion_tokens",
        "stop",
        "seed",
        "n",
        "stream",
        "user",
        "tools",
    )
    neutral = {"logit_bias": {}, "presence_penalty": 0, "tools": None}
    request = chat(**dict.fromkeys(names) | neutral, stream_options=None, metadata={"a": 1}, min_p=0.1)
    used = {"temperature", "top_p", "token_limit", "stop", "seed", "stream", "stream_options", "user", "messages"}
    assert all(getattr(request, name) == getattr(chat(), name) for name in used)


def test_all_values_arrive() -> None:
    fields = {"temperature": 0, "top_p": 1, "max_tokens": 7, "stop": "x", "seed": -5, "user": "u", "cache_salt": "g"}
    flags = {"stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}
    request = chat(**fields, **flags, n=1, response_format={"type": "text"})
    assert (request.temperature, request.top_p, request.token_limit, request.stop) == (0.0, 1.0, 7, ["x"])
    assert (request.seed, request.stream, request.ignore_eos) == (-5, True, True)
    assert request.stream_options.include_usage
    assert (request.user, request.cache_salt) == ("u", "g")


def test_max_completion_tokens_comes_before_max_tokens() -> None:
    assert chat(max_tokens=7, max_completion_tokens=5.0).token_limit == 5


def test_content_parts_and_roles() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None},
    ]
    assert validate(ChatRequest, {"messages": messages}).dialog() == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": ""},
    ]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 10**400}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_completion_tokens": "many"}, "max_completion_tokens"),
        ({"n": 2}, "n"),
        ({"n": 0}, "n"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": ["x", 1]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": {"a": 1}}, "stop"),
        ({"seed": 1.5}, "seed"),
        ({"seed": "x"}, "seed"),
        ({"seed": 1 << 63}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": 5}, "stream_options"),
        ({"model": 5}, "model"),
        ({"user": 5}, "user"),
        ({"user": "u" * 513}, "user"),
        ({"cache_salt": ["x"]}, "cache_salt"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"functions": [{}]}, "functions"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": ["Hello"]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "boss", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
    ],
)
def test_an_error_names_the_parameter(fields: dict[str, object], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        chat(**fields)
    error = caught.value.body()["error"]
    assert isinstance(error, dict)
    assert (caught.value.status, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert param in error["message"]
    assert error["code"]


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"messages": None}, "missing_parameter", "'messages' is missing."),
        ({"temperature": 2.5}, "invalid_value", "'temperature' must be less than or equal to 2, not 2.5."),
        ({"temperature": 10**400}, "invalid_value", "'temperature' must be a smaller number."),
        (
            {"seed": 1 << 64},
            "invalid_value",
            "'seed' must be less than or equal to 9223372036854775807, not one that large.",
        ),
        ({"max_tokens": 1.5}, "invalid_type", "'max_tokens' must be an integer, not a number."),
        ({"stop": ["x", 1]}, "invalid_type", "'stop[1]' must be a string, not an integer."),
        ({"messages": ["x"]}, "invalid_type", "'messages[0]' must be an object, not a string."),
        ({"tools": [{}]}, "unsupported_parameter", "'tools' is not supported by this engine."),
    ],
)
def test_the_code_and_the_message_of_an_error(fields: dict[str, object], code: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        chat(**fields)
    assert (caught.value.code, caught.value.message) == (code, message)


@pytest.mark.parametrize("prompt", ["text", ["text"], [1, 2, 3], [[1, 2, 3]]])
def test_a_prompt_is_text_or_ids_alone_or_in_a_batch_of_one(prompt: object) -> None:
    assert validate(CompletionRequest, {"prompt": prompt}).prompt in ("text", [1, 2, 3])


@pytest.mark.parametrize("prompt", [None, 5, ["a", "b"], [[1], [2]], [1, "a"], [-1], [1.5], [True], [1 << 40]])
def test_other_prompts_are_refused(prompt: object) -> None:
    with pytest.raises(RequestError) as caught:
        validate(CompletionRequest, {"prompt": prompt})
    assert caught.value.param == "prompt"


def test_tokenize_takes_messages_or_a_prompt() -> None:
    for fields, expected in (({}, True), ({"add_generation_prompt": False}, False)):
        request = validate_tokenize({"messages": HELLO, **fields})
        assert isinstance(request, TokenizeChatRequest)
        assert request.add_generation_prompt == expected
    assert isinstance(validate_tokenize({"prompt": ""}), TokenizeTextRequest)
    with pytest.raises(RequestError):
        validate_tokenize({})
    assert validate(DetokenizeRequest, {"tokens": [1, 2]}).tokens == [1, 2]
    with pytest.raises(RequestError):
        validate(DetokenizeRequest, {"tokens": "x"})


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"\xff", b'{"a": NaN}', b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}"]
)
def test_a_body_that_is_no_json_object(raw: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        parse_json(raw)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    ["temperature", "top_p", "max_tokens", "stop", "seed", "n", "stream", "stream_options", "messages", "user", "tools"]
)


@given(st.dictionaries(names, json_values, max_size=4))
def test_every_body_is_accepted_or_raises_request_error(fields: dict[str, object]) -> None:
    value = body(**fields)
    if _is_json(fields):
        value = parse_json(json.dumps(value, allow_nan=False).encode())
    for model in (ChatRequest, CompletionRequest, DetokenizeRequest):
        with contextlib.suppress(RequestError):
            validate(model, value)
    with contextlib.suppress(RequestError):
        validate_tokenize(value)


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True
