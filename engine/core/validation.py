"""Refuses invalid requests before they enter the engine."""

import math
from collections.abc import Sequence

from engine.errors import EngineError, PromptTooLong
from engine.logits_params import MAX_LOGPROBS, NEUTRAL, LogitsParams
from engine.scheduler.request import SamplingParams


def validate_request(token_ids: Sequence[int], params: SamplingParams, *, max_context: int, vocab_size: int) -> None:
    """Raises PromptTooLong for a prompt that leaves no room for a reply, EngineError for any other invalid value."""
    if not token_ids:
        raise EngineError("the prompt is empty")
    if len(token_ids) >= max_context:
        raise PromptTooLong(max_context - 1, len(token_ids))
    if min(token_ids) < 0 or max(token_ids) >= vocab_size:
        raise EngineError(f"token ids must lie between 0 and {vocab_size - 1}")
    if params.max_tokens is not None and params.max_tokens < 1:
        raise EngineError(f"max_tokens must be at least 1, not {params.max_tokens}")
    if not (math.isfinite(params.temperature) and 0 <= params.top_p <= 1):
        raise EngineError("temperature must be a number, and top_p a number from 0 to 1")
    _validate_logits(params.logits, vocab_size)
    if params.num_logprobs is not None and not 0 <= params.num_logprobs <= MAX_LOGPROBS:
        raise EngineError(f"at most {MAX_LOGPROBS} log-probabilities can be returned with a token")


def _validate_logits(params: LogitsParams, vocab_size: int) -> None:
    """Raises EngineError."""
    if params == NEUTRAL:
        return
    if not (math.isfinite(params.repetition_penalty) and params.repetition_penalty > 0):
        raise EngineError("repetition_penalty must be a number above 0")
    if not (math.isfinite(params.frequency_penalty) and math.isfinite(params.presence_penalty)):
        raise EngineError("frequency_penalty and presence_penalty must be numbers")
    if not 0 <= params.min_p <= 1:
        raise EngineError("min_p must be a number from 0 to 1")
    if not all(0 <= token_id < vocab_size and math.isfinite(value) for token_id, value in params.logit_bias):
        raise EngineError(f"logit_bias must give numbers for token ids between 0 and {vocab_size - 1}")
