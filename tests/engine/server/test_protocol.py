"""Request bodies: which values are accepted, and the parameter and code of each error."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.server.protocol.errors import RequestError
from engine.server.protocol.request_body import parse_json, validate
from engine.server.protocol.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeTextRequest,
    validate_tokenize,
)

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
    request = chat(**dict.fromkeys(names) | neutral, stream_options=None, metadata={"a": 1}, whatever=0.1)
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
    assert validate(ChatRequest, {"messages": messages}).dialog == [
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
        ({"n": 17}, "n"),
        ({"n": 0}, "n"),
        ({"n": 3, "best_of": 4}, "best_of"),
        ({"stop": ["x"] * 21}, "stop"),
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
        ({"logprobs": 5}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"5": "1"}}, "logit_bias"),
        ({"logit_bias": {"5": True}}, "logit_bias"),
        ({"logit_bias": {"five": 1}}, "logit_bias"),
        ({"logit_bias": {"-5": 1}}, "logit_bias"),
        ({"logit_bias": {"²": 1}}, "logit_bias"),
        ({"logit_bias": {"9999999999": 1}}, "logit_bias"),
        ({"logit_bias": [5, 1]}, "logit_bias"),
        ({"logit_bias": {str(n): 1 for n in range(1025)}}, "logit_bias"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"frequency_penalty": "high"}, "frequency_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"min_p": 1.01}, "min_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stop_token_ids": ["x"]}, "stop_token_ids"),
        ({"stop_token_ids": [1] * 65}, "stop_token_ids"),
        ({"repetition_guard": "no"}, "repetition_guard"),
        ({"echo": True}, "echo"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "grammar"}}, "type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": True}}}, "schema"),
        ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"response_format": {"type": "json_object"}, "min_tokens": 3}, "min_tokens"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"grammar": "root ::= a"}}, "structured_outputs"),
        ({"structured_outputs": {"choice": []}}, "choice"),
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
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages[0].tool_calls[0]"),
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
        ({"tools": [{}]}, "invalid_value", "'tools[0]' must have a function with a name."),
    ],
)
def test_the_code_and_the_message_of_an_error(fields: dict[str, object], code: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        chat(**fields)
    assert (caught.value.code, caught.value.message) == (code, message)


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" + "0" * 400, "1e308"])
@pytest.mark.parametrize(
    "name",
    ["max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "n", "best_of", "top_k", "stream", "stop"],
)
def test_attack_a_number_beyond_all_bounds_is_refused_by_name(name: str, number: str) -> None:
    value = parse_json(b'{"messages": [{"role": "user", "content": "x"}], "%s": %s}' % (name.encode(), number.encode()))
    with pytest.raises(RequestError) as caught:
        validate(ChatRequest, value)
    assert (caught.value.status, caught.value.param) == (400, name)
    if name not in ("top_k", "stream", "stop") or number == "1e400":
        assert caught.value.code == "invalid_value"


def test_attack_token_ids_beyond_all_bounds_are_refused() -> None:
    for number in ("1e400", "1e300", "1" + "0" * 400):
        for raw, model in (
            (f'{{"tokens": [{number}]}}', DetokenizeRequest),
            (f'{{"prompt": [{number}]}}', CompletionRequest),
        ):
            with pytest.raises(RequestError):
                validate(model, parse_json(raw.encode()))  # type: ignore[type-var]


CHANGES_THE_REPLY: list[tuple[str, object]] = [
    *[("typical_p", 0.9), ("tfs", 0.9), ("tfs_z", 0.9), ("top_a", 0.2)],
    *[("repeat_penalty", 1.1), ("rep_pen", 1.1), ("encoder_repetition_penalty", 1.2)],
    *[("no_repeat_ngram_size", 3), ("penalty_alpha", 0.6)],
    *[("mirostat", 2), ("mirostat_mode", 1), ("mirostat_tau", 5.0), ("dry_multiplier", 0.8), ("dry_base", 1.75)],
    *[("xtc_probability", 0.5), ("xtc_threshold", 0.1), ("dynatemp_range", 0.5), ("smoothing_factor", 0.3)],
    *[("guided_json", {"type": "object"}), ("guided_regex", "a+"), ("guided_choice", ["a"]), ("guided_grammar", "g")],
    *[("grammar", "root ::= a"), ("json_schema", {"type": "object"})],
    *[("regex", "a"), ("ebnf", "a")],
    *[("use_beam_search", True), ("num_beams", 4), ("length_penalty", 0.8), ("early_stopping", True)],
    *[
        ("min_new_tokens", 5),
        ("bad_words", ["x"]),
        ("banned_tokens", [1]),
        ("banned_strings", ["x"]),
    ],
    *[("allowed_token_ids", [1]), ("logits_processors", ["x"]), ("ban_eos_token", True)],
    *[("include_stop_str_in_output", True), ("skip_special_tokens", False)],
    *[("prompt_logprobs", 0), ("do_sample", False), ("samplers", ["top_k"])],
    *[("chat_template", "{{ x }}"), ("enable_thinking", False)],
    *[("reasoning_effort", "high"), ("reasoning", {"effort": "low"}), ("thinking", {"type": "enabled"})],
    *[
        ("tool_choice", "any"),
        ("verbosity", "low"),
        ("web_search_options", {}),
    ],
    *[("n_predict", 5), ("max_new_tokens", 5), ("stop_sequence", ["x"]), ("random_seed", 5), ("system", "Be rude.")],
    *[("negative_prompt", "x"), ("guidance_scale", 1.5), ("truncate_prompt_tokens", 5), ("documents", [{}])],
    *[
        ("topK", 5),
        ("minP", 0.1),
        ("repetitionPenalty", 1.1),
        ("maxTokens", 5),
        ("topP", 0.5),
        ("TOP_K", 5),
        ("temp", 1),
    ],
    *[("generationConfig", {"topK": 4}), ("sampling_params", {"top_k": 4}), ("parameters", {"top_k": 4})],
    *[("extra_body", {"top_k": 4}), ("guided_json", {}), ("json_schema", {}), ("response_schema", {}), ("schema", {})],
    *[("text", {"format": {"type": "json_object"}}), ("output_config", {"effort": "low"}), ("json_mode", True)],
    *[("max_output_tokens", 5), ("stop_words", ["x"]), ("stop_str", "x"), ("eos_token_id", 5), ("stop_tokens", ["x"])],
    *[("instructions", "x"), ("input_prefix", "x"), ("memory", "x"), ("prefill", "x"), ("prompt_mode", "reasoning")],
    *[("previous_response_id", "x"), ("session_params", {"id": "x"}), ("image_data", "x"), ("input_ids", [[1]])],
    *[("n_cmpl", 2), ("candidateCount", 2), ("watermark", True), ("return_full_text", True), ("top_n_tokens", 4)],
    *[("token_healing", True), ("regex_pattern", "a"), ("template_vars", {"a": 1}), ("add_bos_token", False)],
    *[("repetition_detection", {"min_count": 4}), ("return_hidden_states", True), ("logits_bias", {"1": 1})],
    *[("search_parameters", {"mode": "on"}), ("mcp_servers", [{}]), ("diversity_penalty", 1), ("len_penalty", 2)],
    *[("lora_path", "x"), ("options", {"top_k": 5}), ("format", "json"), ("top_n_sigma", 1.0), ("safe_prompt", True)],
]


@pytest.mark.parametrize(("name", "value"), CHANGES_THE_REPLY)
def test_attack_a_parameter_that_would_change_the_reply_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(RequestError) as caught:
        chat(**{name: value})
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, name, "unsupported_parameter")
    assert f"'{name}'" in caught.value.message
    with pytest.raises(RequestError, match=name):
        validate(CompletionRequest, {"prompt": "x", name: value})


def test_neutral_values_and_harmless_parameters_are_accepted() -> None:
    neutral = {
        "top_k": -1,
        "min_p": 0,
        "rep_pen": 1,
        "typical_p": 1,
        "tfs": 1.0,
        "repetition_penalty": 1,
        "repeat_penalty": 1.0,
    }
    switched_off = {"mirostat_mode": 0, "mirostat_tau": 5, "mirostat_eta": 0.1, "dry_multiplier": 0, "dry_base": 1.75}
    switched_off |= {"xtc_probability": 0, "xtc_threshold": 0.1, "dynamic_temperature": False, "dynatemp_exponent": 1}
    absent = dict.fromkeys(name for name, _ in CHANGES_THE_REPLY) | {"tools": [], "logit_bias": {}, "logprobs": False}
    defaults = {"tool_choice": "auto", "use_beam_search": False, "length_penalty": 1.0, "min_tokens": 0, "best_of": 1}
    defaults |= {"skip_special_tokens": True, "do_sample": True, "response_format": {"type": "text"}}
    defaults |= {"reasoning_effort": "none", "verbosity": "medium", "thinking": {"type": "disabled"}, "n_predict": -1}
    harmless = {"store": True, "metadata": {"a": "b"}, "service_tier": "auto", "parallel_tool_calls": True}
    harmless |= {"prompt_cache_key": "x", "safety_identifier": "y", "cache_prompt": True, "repeat_last_n": 64}
    harmless |= {"rep_pen_range": 300, "rep_pen_slope": 0.7, "penalty_range": 100, "num_ctx": 4096, "keep_alive": "5m"}
    harmless |= {"truncation_length": 4096, "id_slot": 1, "timings_per_token": True, "priority": 1, "request_id": "x"}
    harmless |= {"rid": "x", "genkey": "x", "provider": {"order": []}, "route": "x", "usage": {"include": True}}
    harmless |= {"prompt_cache_retention": "24h", "include_reasoning": True, "separate_reasoning": True}
    for fields in (neutral, switched_off, absent, defaults, harmless):
        assert chat(**fields).messages == chat().messages
        assert validate(CompletionRequest, {"prompt": "x", **fields}).prompt == ["x"]


def test_attack_a_picture_beside_the_text_of_a_message_is_refused() -> None:
    with pytest.raises(RequestError) as caught:
        chat(messages=[{"role": "user", "content": "What is this?", "images": ["aGk="]}])
    assert (caught.value.param, caught.value.code) == ("messages[0].images", "unsupported_parameter")
    message = {"role": "assistant", "content": "A cat.", "images": [], "audio": None, "refusal": None, "name": "Rex"}
    assert chat(messages=[*HELLO, message, *HELLO]).messages


def test_twenty_stop_strings() -> None:
    assert len(chat(stop=[f"stop {n}" for n in range(20)]).stop) == 20


def test_case_12_how_the_last_message_is_taken() -> None:
    begun = [*HELLO, {"role": "assistant", "content": "Well,"}]
    assert not chat().continue_last
    assert chat(messages=begun).continue_last
    assert chat(messages=begun, continue_final_message=True, add_generation_prompt=False).continue_last
    assert not chat(messages=begun, add_generation_prompt=True).continue_last
    assert not chat(messages=begun, continue_final_message=False).continue_last
    for fields in (
        {"continue_final_message": True},
        {"messages": begun, "continue_final_message": True, "add_generation_prompt": True},
        {"messages": begun, "continue_final_message": False, "add_generation_prompt": False},
        {"add_generation_prompt": False},
        {"add_special_tokens": True},
    ):
        with pytest.raises(RequestError) as caught:
            chat(**fields)
        assert caught.value.param in fields


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("text", ["text"]),
        (["text"], ["text"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2, 3]], [[1, 2, 3]]),
        ([[1], [2]], [[1], [2]]),
    ],
)
def test_a_prompt_is_text_or_ids_alone_or_in_a_list(prompt: object, prompts: object) -> None:
    assert validate(CompletionRequest, {"prompt": prompt}).prompt == prompts


@pytest.mark.parametrize(
    "prompt", [None, 5, [1, "a"], ["a", [1]], [[1], 2], ["a"] * 65, ["\ud800"], [-1], [1.5], [True], [1 << 40]]
)
def test_other_prompts_are_refused(prompt: object) -> None:
    with pytest.raises(RequestError) as caught:
        validate(CompletionRequest, {"prompt": prompt})
    assert caught.value.param == "prompt"


def test_tokenize_takes_messages_or_a_prompt() -> None:
    request = validate_tokenize({"messages": HELLO, "add_generation_prompt": True})
    assert isinstance(request, TokenizeChatRequest)
    assert not request.continue_last
    for fields in ({"add_generation_prompt": False}, {"tools": [{}]}, {"chat_template": "x"}):
        with pytest.raises(RequestError) as caught:
            validate_tokenize({"messages": HELLO, **fields})
        assert caught.value.param in fields
    assert isinstance(validate_tokenize({"prompt": ""}), TokenizeTextRequest)
    with pytest.raises(RequestError):
        validate_tokenize({})
    assert validate(DetokenizeRequest, {"tokens": [1, 2]}).tokens == [1, 2]
    with pytest.raises(RequestError):
        validate(DetokenizeRequest, {"tokens": "x"})


@pytest.mark.parametrize(
    "raw",
    [
        b'{"messages": [' + b"{}," * 200_000 + b"{}]}",
        b'{"messages": [' + b'{"role":"user","content":""},' * 30_000 + b"{}]}",
        b'{"messages": [{"role":"user","content":[' + b'{"type":"text","text":""},' * 30_000 + b"{}]}]}",
        b'{"a": [' + b"1," * 1_500_000 + b"1]}",
        b'{"a": [' + b"1.5e3," * 300_000 + b"1]}",
        b"{" + b",".join(b'"%d": 1' % n for n in range(2000)) + b"}",
        b'{"messages": [{' + b",".join(b'"%d": 1' % n for n in range(2000)) + b"}]}",
        ('{"messages": [' + "{}," * 200_000 + "{}]}").encode("utf-16"),
    ],
    ids=["objects", "messages", "parts", "integers", "floats", "fields", "fields_of_a_message", "utf-16"],
)
def test_attack_a_body_of_very_many_parts_is_refused_unparsed(raw: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        parse_json(raw)
    assert (caught.value.status, caught.value.code) == (413, "body_too_large")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"a": NaN}',
        b"[" * 90_000,
        b'{"a": ' + b"1" * 5000 + b"}",
        b'{"a": "\xe4"}',
        b"{'a': 1}",
    ],
)
def test_a_body_that_is_no_json_object(raw: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        parse_json(raw)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"top_k": 5, "top_k": null}',
        b'{"tools": [{}], "messages": [], "tools": []}',
        b'{"messages": [{"role": "user", "content": "a", "role": "system"}]}',
        b'{"stream_options": {"include_usage": true, "include\\u005fusage": false}}',
    ],
)
def test_attack_a_name_that_is_there_twice_hides_nothing(raw: bytes) -> None:
    with pytest.raises(RequestError, match="is there twice") as caught:
        parse_json(raw)
    assert caught.value.code == "invalid_json"


def test_a_body_of_usual_size_and_many_commas_and_brackets_is_parsed() -> None:
    text = "f(x)[0], {y}, " * 20_000
    assert parse_json(json.dumps({"messages": [{"role": "user", "content": text}]}).encode())
    assert parse_json(json.dumps({"prompt": list(range(131_072))}).encode())


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
