"""Refusals of prompts that are too long, as many servers word them; the numbers are ours."""

from __future__ import annotations

import pytest

from bot.engine_client.client import EngineClient
from bot.engine_client.errors import ContextExceeded
from bot.engine_client.refusals.overflow import overflow
from bot.engine_client.refusals.refusal import read_refusal
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


BODIES: list[tuple[object, tuple[int, int] | None]] = [
    (
        {
            "error": {
                "message": "Please reduce the length of the messages or completion.",
                "type": "invalid_request_error",
                "code": "context_length_exceeded",
            }
        },
        (0, 0),
    ),  # Groq code
    (
        {
            "message": "Please reduce the length of the messages or completion. Current length is 8500 while limit is 8192",  # noqa: E501
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        },
        (8192, 8500),
    ),  # Cerebras
    (
        {"error": {"message": "inference requested max_new_tokens 8192 + input tokens 5000 exceeds context 8192"}},
        (8192, 5000),
    ),  # DeepInfra
    (
        {
            "error": {
                "message": "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000 tokens. Please reduce the length of the messages.",  # noqa: E501
                "code": "context_length_exceeded",
            }
        },
        (272000, 300000),
    ),  # OpenAI new
    (
        {
            "error": {
                "message": "litellm.ContextWindowExceededError: litellm.BadRequestError: ContextWindowExceededError: OpenAIException - This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 tokens. Please reduce the length of the messages.. Received Model Group=x\nAvailable Model Group Fallbacks=None",  # noqa: E501
                "type": None,
                "param": None,
                "code": "400",
            }
        },
        (4096, 5000),
    ),  # LiteLLM
    ({"detail": "Prompt length 5000 is greater than max_seq_len 4096"}, (4096, 5000)),  # TabbyAPI
    ({"error": {"message": "Context length 5000 is greater than max_seq_len 4096"}}, (4096, 5000)),  # TabbyAPI new
    (
        {"detail": "ValueError: Total sequence length exceeds cache size, prompt 5000 tokens, cache 4096"},
        (0, 0),
    ),  # exllama
    (
        {"detail": {"msg": "Prompt too long! Token count 5000 exceeds context size 4096", "type": "bad_input"}},
        (4096, 5000),
    ),  # KoboldCpp
    (
        {"error": "Prompt sequence length 5000 is greater than 4096, perhaps consider using `truncate_sequence`?"},
        (4096, 5000),
    ),  # mistral.rs
    ({"error": "Prompt too long (5000 tokens). Max allowed 4096"}, (0, 0)),  # MLX
    (
        {
            "object": "error",
            "message": "The sum of prompt length (5000.0) and query length (0) should not exceed max_num_tokens (4096)",
        },
        (0, 0),
    ),  # TensorRT-LLM
    (
        {
            "object": "error",
            "message": "Internal error: session's history tokens (5000) exceeds session_len 4096",
            "code": 400,
        },
        (4096, 5000),
    ),  # lmdeploy
    (
        {
            "error": {
                "message": "You passed 90000 input characters and requested 512 output tokens. However, the model's context length is only 4096 tokens, resulting in a maximum input length of 3584 tokens (at most 57344 characters). Please reduce the length of the input prompt. (parameter=input_text, value=90000)"  # noqa: E501
            }
        },
        (4096, 0),
    ),  # vLLM chars
    ({"error": {"code": "1261", "message": "Prompt exceeds max length"}}, (0, 0)),  # Zhipu
    (
        {
            "error": {
                "code": "invalid_parameter_error",
                "message": "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 129024]",
                "type": "invalid_request_error",
            }
        },
        (0, 0),
    ),  # Qwen DashScope
    (
        {
            "code": 20015,
            "message": "length of prompt_tokens (40000) must be less than max_seq_len (32768).",
            "data": None,
        },
        (32768, 40000),
    ),  # SiliconFlow
    (
        {
            "code": 400,
            "reason": "INVALID_REQUEST_BODY",
            "message": "the sum of input tokens 9000 and max_tokens 512 exceeds the context length 8192",
        },
        (8192, 9000),
    ),  # Novita
    (
        {
            "errors": [
                {
                    "message": "AiError: AiError: The estimated number of input and maximum output tokens (9512) exceeded this model context window limit (8192).",  # noqa: E501
                    "code": 5021,
                }
            ],
            "success": False,
        },
        (8192, 9512),
    ),  # Cloudflare
    (
        {
            "errors": [
                {
                    "code": "invalid_input_argument",
                    "message": "Input validation failed: the number of input tokens 5000 cannot exceed the total tokens limit 4096 for this model",  # noqa: E501
                }
            ]
        },
        (0, 0),
    ),  # WatsonX
    (
        {"error": {"message": "Requested prompt length 5000 exceeds model's maximum sequence length 4096"}},
        (4096, 5000),
    ),  # SambaNova
    (
        {
            "error": {
                "code": "tokens_limit_reached",
                "message": "Request body too large for gpt-4o model. Max size: 8000 tokens.",
                "details": "Request body too large for gpt-4o model. Max size: 8000 tokens.",
            }
        },
        (0, 0),
    ),  # GitHub
    ({"message": "Context size exceeded: prompt 5000, n_ctx=4096"}, (4096, 5000)),  # Jan/cortex
    (
        {"error": {"message": "max_tokens (8192) exceeds the model's maximum output length 4096"}},
        None,
    ),  # not: reply too long
    (
        {"error": {"message": "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]"}},
        None,
    ),  # not: max_tokens Deepseek
    (
        {
            "error": {
                "message": "Invalid 'stop': array too long. Expected an array with maximum length 4, but got an array with length 8 instead."  # noqa: E501
            }
        },
        None,
    ),  # not: stop
    (
        {
            "error": {
                "message": "Invalid 'user': string too long. Expected a string with maximum length 16, but got a string with length 32 instead.",  # noqa: E501
                "param": "user",
                "code": "string_above_max_length",
            }
        },
        None,
    ),  # not: user too long
    (
        {
            "error": {
                "message": "max_completion_tokens: 512 is greater than the maximum allowed 256 for this model",
                "param": "max_completion_tokens",
            }
        },
        None,
    ),  # not: Azure maxtokens
    (
        {
            "error": {
                "message": "max_tokens: 512 > 256, which is the maximum allowed number of output tokens for claude-3",
                "type": "invalid_request_error",
            }
        },
        None,
    ),  # not: Anthropic maxtokens
    ({"error": {"message": "This model does not support image inputs"}}, None),  # not: images
    ({"error": {"message": "Requests with max_tokens > 4096 must have stream=true"}}, None),  # not: Fireworks
]


@pytest.mark.parametrize(("body", "numbers"), BODIES)
def test_case_08_whole_bodies_of_other_servers(body: object, numbers: tuple[int, int] | None):
    assert overflow(read_refusal(body)) == numbers


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
