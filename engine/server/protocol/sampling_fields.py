"""The request fields that say how tokens are chosen, with OpenAI's or vLLM's names, ranges and meaning.

Knows the values that a field may have. What they do is defined in `engine/layers/logits.py`.
"""

from typing import Annotated, Any, Final, Self

from pydantic import BeforeValidator, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from engine.logits_params import MAX_LOGPROBS, LogitsParams
from engine.server.protocol.errors import RequestError
from engine.server.protocol.field_types import Count, Integer, TokenIds
from engine.server.protocol.request_body import JsonObject

MAX_CHOICES: Final = 16  # of one prompt
MAX_BIASED: Final = 1024  # tokens of one request
MAX_STOP_TOKENS: Final = 64
_MAX_BIAS: Final = 100.0
_MAX_TOKEN_ID: Final = (1 << 31) - 1


def _as_bias(value: object) -> tuple[tuple[int, float], ...]:
    """{"token id": number} as pairs, in the order of the ids."""
    if isinstance(value, tuple):
        return value
    if not isinstance(value, dict):
        raise PydanticCustomError("invalid_type", "must be an object of token ids and numbers")
    if len(value) > MAX_BIASED:
        raise PydanticCustomError("invalid_value", "may have at most 1024 token ids")
    return tuple(sorted((_as_token_id(key), _as_bias_value(number)) for key, number in value.items()))


def _as_token_id(key: str) -> int:
    if not (key.isascii() and key.isdecimal() and len(key) <= 10 and int(key) <= _MAX_TOKEN_ID):
        raise PydanticCustomError("invalid_value", "has a name that is no token id")
    return int(key)


def _as_bias_value(number: object) -> float:
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise PydanticCustomError("invalid_type", "must have numbers as its values")
    if not -_MAX_BIAS <= number <= _MAX_BIAS:
        raise PydanticCustomError("invalid_value", "must have values from -100 to 100")
    return float(number)


LogitBias = Annotated[tuple[tuple[int, float], ...], PlainValidator(_as_bias)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
NumLogprobs = Annotated[Integer, Field(ge=0, le=MAX_LOGPROBS)]
NumLogprobsOrFalse = Annotated[NumLogprobs | None, BeforeValidator(lambda value: None if value is False else value)]


class SamplingFields(JsonObject):
    """What chat and plain completions share."""

    n: Annotated[Count, Field(le=MAX_CHOICES)] = 1
    best_of: Count = 1
    min_p: float = Field(0.0, ge=0, le=1)
    top_k: Integer = Field(0, ge=-1, le=_MAX_TOKEN_ID)
    repetition_penalty: float = Field(1.0, gt=0, le=10)
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    logit_bias: LogitBias = ()
    min_tokens: Integer = Field(0, ge=0, le=_MAX_TOKEN_ID)
    stop_token_ids: TokenIds = Field([])
    repetition_guard: bool = True

    @model_validator(mode="before")
    @classmethod
    def _check_lengths(cls, value: Any) -> Any:
        ids = value.get("stop_token_ids") if isinstance(value, dict) else None
        if isinstance(ids, list) and len(ids) > MAX_STOP_TOKENS:
            message = f"'stop_token_ids' may have at most {MAX_STOP_TOKENS} ids."
            raise RequestError(message, param="stop_token_ids", code="invalid_value")
        return value

    @model_validator(mode="after")
    def _check_best_of(self) -> Self:
        if self.best_of not in (1, self.n):
            message = "'best_of' must be equal to 'n': this engine returns every choice that it generates."
            raise RequestError(message, param="best_of", code="unsupported_parameter")
        return self

    @property
    def logits_params(self) -> LogitsParams:
        """The fields as the engine takes them."""
        return LogitsParams(
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            logit_bias=self.logit_bias,
            min_tokens=self.min_tokens,
            min_p=self.min_p,
            top_k=max(0, self.top_k),
        )
