"""Refusals of prompts that are too long, as many servers word them; the numbers are ours."""

from __future__ import annotations

import pytest

from bot.engine_client.client import EngineClient
from bot.engine_client.errors import ContextExceeded
from bot.engine_client.overflow import overflow
from bot.engine_client.refusal import read_refusal
from tests.bot.engine_client.wire_kit import ask
from tests.fakes.engine.wire import WireServer, refusing

SENTENCES: list[tuple[str, tuple[int, int] | None]] = [
    (
        "This model's maximum context length is 4096 tokens. However, you requested 4608 tokens (4096 in "
        "the messages, 512 in the completion).",
        (4096, 4096),
    ),
    (
        "You passed 5000 input tokens and requested 512 output tokens. However, the model's context "
        "length is only 4096 tokens, resulting in a maximum input length of 3584 tokens.",
        (4096, 5000),
    ),
    (
        "'max_tokens' or 'max_completion_tokens' is too large: 512. This model's maximum context length "
        "is 4096 tokens and your request has 4000 input tokens (512 > 4096 - 4000).",
        (4096, 4000),
    ),
    (
        "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure "
        "that `max_model_len` is no smaller than the number of text tokens.",
        (4096, 5000),
    ),
    (
        "This model's maximum context length is 4096 tokens. However, you requested 512 output tokens "
        "and your prompt contains at least 3585 input tokens, for a total of at least 4097 tokens. "
        "Please reduce the length of the input prompt or the number of requested output tokens. "
        "(parameter=input_tokens, value=3585)",
        (4096, 3585),
    ),
    (
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 "
        "`inputs` tokens and 512 `max_new_tokens`",
        (4096, 5000),
    ),
    (
        "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000",
        (0, 0),
    ),
    (
        "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded "
        "with context length of only 4096 tokens, which is not enough.",
        (4096, 5000),
    ),
    (
        "The number of tokens to keep from the initial prompt is greater than the context length "
        "(n_keep: 5000>= n_ctx: 4096).",
        (4096, 5000),
    ),
    (
        "request (5000 tokens) exceeds the available context size (4096 tokens), try increasing it",
        (4096, 5000),
    ),
    (
        "the request exceeds the available context size. try increasing the context size or enable context shift",
        (0, 0),
    ),
    (
        "input length exceeds maximum context length",
        (0, 0),
    ),
    (
        "the input length exceeds the context length",
        (0, 0),
    ),
    (
        "The input (5000 tokens) is longer than the model's context length (4096 tokens).",
        (4096, 5000),
    ),
    (
        "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested "
        "a total of 5512 tokens: 5000 tokens from the input messages and 512 tokens for the completion. "
        "Please reduce the number of tokens in the input messages or the completion to fit within the "
        "limit.",
        (4096, 5000),
    ),
    (
        "Input length (5000 tokens) exceeds the maximum allowed length (4090 tokens). Use a shorter "
        "input or enable --allow-auto-truncate.",
        (4090, 5000),
    ),
    (
        "Prompt length 5000 exceeds max_length 4096",
        (4096, 5000),
    ),
    (
        "prompt is too long: 208310 tokens > 200000 maximum",
        (200000, 208310),
    ),
    (
        "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease input "
        "length or `max_tokens` and try again",
        (200000, 188240),
    ),
    (
        "This endpoint's maximum context length is 4096 tokens. However, you requested about 5512 tokens "
        "(5000 of text input, 512 in the output). Please reduce the length of either one, or use the "
        '"middle-out" transform',
        (4096, 5000),
    ),
    (
        "The input token count (5000) exceeds the maximum number of tokens allowed (4096).",
        (4096, 5000),
    ),
    (
        "The input token count 5000 exceeds the maximum number of tokens allowed 4096.",
        (4096, 5000),
    ),
    (
        "Prompt contains 5000 tokens and 0 draft tokens, too large for model with 4096 maximum context length",
        (4096, 5000),
    ),
    (
        "too many tokens: total number of tokens in the prompt cannot exceed 4096 - received 5000. Try "
        "using a shorter prompt",
        (4096, 5000),
    ),
    (
        "Input is too long for requested model.",
        (0, 0),
    ),
    (
        "The prompt is too long: 5000, model maximum context length: 4096",
        (4096, 5000),
    ),
    (
        "This model's maximum prompt length is 4096 but the request contains 5000 tokens.",
        (4096, 5000),
    ),
    (
        "prompt token count of 5000 exceeds the limit of 4096",
        (4096, 5000),
    ),
    (
        "Invalid request: Your request exceeded model token limit: 4096",
        (4096, 0),
    ),
    (
        "This model's maximum context length is 4097 tokens. However, your messages resulted in 5000 "
        "tokens. Please reduce the length of the messages.",
        (4097, 5000),
    ),
    (
        "This model's maximum context length is 4097 tokens, however you requested 5512 tokens (5000 in "
        "your prompt; 512 for the completion). Please reduce your prompt; or completion length.",
        (4097, 5000),
    ),
    (
        "the prompt is too long: 5000 tokens, and the context length is 4096",
        (4096, 5000),
    ),
    (
        "The prompt takes 5,000 tokens, and the context holds 4,096.",
        (4096, 5000),
    ),
    (
        "prompt is too long: 8300 tokens > 8192 maximum context length",
        (8192, 8300),
    ),
    (
        "Token indices sequence length is longer than the specified maximum sequence length for this "
        "model (5000 > 4096)",
        (4096, 5000),
    ),
    (
        "Prompt tokens (5000) exceed context window of 4096",
        (4096, 5000),
    ),
    (
        "Requested tokens (5000) exceed context window of 4096",
        (4096, 5000),
    ),
    (
        "max_tokens is too large: 5000. This model supports at most 4096 completion tokens",
        None,
    ),
    (
        "max_tokens must be less than or equal to `8192`, the maximum value for `max_tokens` is less "
        "than the `context_window` for this model",
        None,
    ),
    (
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        None,
    ),
    (
        "Conversation roles must alternate user/assistant/user/assistant/...",
        None,
    ),
    (
        "Your request was rejected by the safety system",
        None,
    ),
]


@pytest.mark.parametrize(("sentence", "numbers"), SENTENCES)
def test_case_08_the_numbers_are_those_that_the_sentence_names(sentence: str, numbers: tuple[int, int] | None):
    assert overflow(read_refusal({"error": {"message": sentence}})) == numbers


@pytest.mark.parametrize("named_by", ["max_model_len", "context_length", "context_window"])
async def test_case_08_a_limit_that_the_server_names_counts_and_not_one_of_a_sentence(named_by: str):
    body = {"error": "prompt is too long: 5000 tokens > 512 maximum context length"}
    async with WireServer(refusing(400, body)) as server, EngineClient(server.url) as client:
        server.models = {"data": [{"id": "m"}]}
        with pytest.raises(ContextExceeded):
            await ask(client)
        assert client.context_length == 512  # better than nothing
    async with WireServer(refusing(400, body)) as server, EngineClient(server.url) as client:
        server.models = {"data": [{"id": "m", named_by: 8192}]}
        with pytest.raises(ContextExceeded):
            await ask(client)
        assert client.context_length == 8192


@pytest.mark.parametrize("named", [-1, 0, True, "many", 1.5, 10**30, [4096], None])
async def test_attack_a_context_that_is_no_size(named: object):
    async with WireServer() as server, EngineClient(server.url) as client:
        server.models = {"data": [{"id": "m", "max_model_len": named}, None, 5, {"id": 7}]}
        assert (await ask(client))[0] == "ok"
        assert client.context_length is None
