"""Request bodies: what is accepted, and that every refusal names its parameter."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.server.fields import RequestError, parse_object
from engine.server.protocol import parse_chat, parse_completion, parse_detokenize, parse_tokenize

HELLO = [{"role": "user", "content": "Hello"}]


def chat(**fields: object) -> dict[str, object]:
    return {"model": "m", "messages": HELLO, **fields}


def test_defaults_are_openai_s() -> None:
    options = parse_chat(chat()).options
    assert (options.temperature, options.top_p, options.max_tokens, options.stop) == (1.0, 1.0, None, ())
    assert (options.seed, options.stream, options.include_usage, options.ignore_eos) == (None, False, False, False)
    assert parse_completion({"prompt": "x"}).options.max_tokens == 16


def test_every_field_may_be_null_and_strangers_are_ignored() -> None:
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
    body = chat(
        **dict.fromkeys(names), stream_options=None, logit_bias={}, presence_penalty=0, metadata={"a": 1}, min_p=0.1
    )
    assert parse_chat(body).options == parse_chat(chat()).options


def test_all_values_arrive() -> None:
    options = parse_chat(
        chat(temperature=0, top_p=1, max_tokens=7, stop="x", seed=-5, stream=True, user="u", cache_salt="g", n=1)
        | {"stream_options": {"include_usage": True}, "ignore_eos": True, "response_format": {"type": "text"}}
    ).options
    assert (options.temperature, options.top_p, options.max_tokens, options.stop) == (0.0, 1.0, 7, ("x",))
    assert (options.seed, options.stream, options.include_usage, options.ignore_eos) == (-5, True, True, True)
    assert (options.client, options.tenant) == ("u", "g")


def test_max_completion_tokens_is_the_newer_name() -> None:
    assert parse_chat(chat(max_tokens=7, max_completion_tokens=5.0)).options.max_tokens == 5


def test_parts_and_roles() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None},
    ]
    assert parse_chat({"messages": messages}).messages == (
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": ""},
    )


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
def test_a_refusal_names_the_parameter(fields: dict[str, object], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_chat(chat(**fields))
    error = caught.value.body()["error"]
    assert isinstance(error, dict)
    assert (caught.value.status, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert param in error["message"]
    assert error["code"]


@pytest.mark.parametrize("prompt", ["text", ["text"], [1, 2, 3], [[1, 2, 3]]])
def test_a_prompt_is_text_or_ids_alone_or_in_a_batch_of_one(prompt: object) -> None:
    assert parse_completion({"prompt": prompt}).prompt in ("text", (1, 2, 3))


@pytest.mark.parametrize("prompt", [None, 5, ["a", "b"], [[1], [2]], [1, "a"], [-1], [1.5], [True], [1 << 40]])
def test_other_prompts_are_refused(prompt: object) -> None:
    with pytest.raises(RequestError) as caught:
        parse_completion({"prompt": prompt})
    assert caught.value.param == "prompt"


def test_tokenize_takes_messages_or_a_prompt() -> None:
    assert parse_tokenize({"messages": HELLO}).add_generation_prompt
    assert not parse_tokenize({"messages": HELLO, "add_generation_prompt": False}).add_generation_prompt
    assert parse_tokenize({"prompt": ""}).messages is None
    with pytest.raises(RequestError):
        parse_tokenize({})
    assert parse_detokenize({"tokens": [1, 2]}) == (1, 2)
    with pytest.raises(RequestError):
        parse_detokenize({"tokens": "x"})


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b'{"a": NaN}', b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}"]
)
def test_what_is_no_json_object(body: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        parse_object(body)
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
def test_no_body_makes_it_fail_in_another_way(fields: dict[str, object]) -> None:
    body = parse_object(json.dumps(chat(**fields), allow_nan=False).encode()) if _is_json(fields) else chat(**fields)
    for parse in (parse_chat, parse_completion, parse_tokenize, parse_detokenize):
        with contextlib.suppress(RequestError):
            parse(body)


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True
