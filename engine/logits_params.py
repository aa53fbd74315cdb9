"""What a request changes in its logits before a token is sampled, and the log-probabilities it gets back. Types only.

`engine/layers/logits.py` defines the result.
"""

from dataclasses import dataclass, field
from typing import Final, Protocol

MAX_LOGPROBS: Final = 20  # of the likeliest tokens beside each token, as in OpenAI's API


@dataclass(frozen=True, slots=True)
class LogitsParams:
    """The defaults change nothing. Fields have vLLM's names and meaning."""

    repetition_penalty: float = 1.0  # of every token in the prompt or the output
    frequency_penalty: float = 0.0  # for each time that a token is in the output
    presence_penalty: float = 0.0  # of every token in the output
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, what is added)
    min_tokens: int = 0  # of output before a stop token may come
    min_p: float = 0.0  # as a share of the highest probability
    top_k: int = 0  # <= 0: all

    @property
    def has_penalties(self) -> bool:
        """Whether earlier tokens count."""
        return (self.repetition_penalty, self.frequency_penalty, self.presence_penalty) != (1.0, 0.0, 0.0)


NEUTRAL = LogitsParams()


class ConstraintFailed(Exception):
    """A constraint cannot go on, such as one that has become too large. The message says why."""


class TokenConstraint(Protocol):
    """Decides which token may come next, from the tokens so far. Used by the engine thread alone."""

    def mask(self) -> bytes:
        """The tokens that may come next: one bit for each id, the lowest bit of a byte first.

        Once the constraint has failed these are the stop tokens alone, and `check` says why.
        """
        ...

    def accept(self, token_id: int) -> bool:
        """The token has come. Returns whether the text is complete, so that nothing but a stop token may follow.

        Raises ConstraintFailed.
        """
        ...

    def check(self) -> None:
        """Called when a stop token has come. Raises ConstraintFailed if it came because the constraint had failed."""
        ...


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What rank 0 needs to know about a sequence whose logits are adjusted, as it enters its row.

    `token_ids` are prompt and output so far, and empty if no penalty counts them.
    """

    params: LogitsParams = NEUTRAL
    token_ids: tuple[int, ...] = field(default=(), repr=False)
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()  # what `min_tokens` keeps from coming


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities at one position, of the model's own distribution: before bias, penalties and temperature."""

    logprob: float  # of the sampled token
    top: tuple[tuple[int, float], ...] = ()  # the most likely tokens, the likeliest first
