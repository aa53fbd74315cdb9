"""Refuses invalid requests before they enter the engine."""

import math
from collections.abc import Sequence

from engine.errors import EngineError, PromptTooLong
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
