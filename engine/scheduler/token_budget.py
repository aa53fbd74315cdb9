"""How many prompt tokens may join a step: a few where others are waiting for their next token, many where nobody is.

A step of `burst` tokens reads prompts at the lowest cost but takes several times as long as one of `chunk`. While rows
decode, at most one step in `RARELY` may be such a one (some can be saved up), so that the time between two tokens is an
ordinary step's at the 95th percentile. Counts steps; knows no clock, no queue, no request.
"""

from typing import Final

STEPS_PER_BURST: Final = 25
MAX_SAVED_BURSTS: Final = 16.0


class TokenBudget:
    def __init__(self, max_prefill_tokens: int, burst_prefill_tokens: int, max_num_seqs: int) -> None:
        """`burst` 0: every step may take `chunk` tokens. `rows` is what decoding may add to a step's tokens."""
        self._max_prefill_tokens, self._burst_prefill_tokens, self._max_num_seqs = (
            max_prefill_tokens,
            burst_prefill_tokens,
            max_num_seqs,
        )
        self._saved_bursts = MAX_SAVED_BURSTS

    def prefill_tokens(self, num_decoding: int) -> int:
        """Prompt tokens for a step in which so many rows decode."""
        if not self._burst_prefill_tokens:
            return self._max_prefill_tokens
        if not num_decoding:
            self._saved_bursts = MAX_SAVED_BURSTS
            return self._burst_prefill_tokens + self._max_num_seqs
        return self._burst_prefill_tokens if self._saved_bursts >= 1 else self._max_prefill_tokens

    def record_step(self, num_decoding: int, num_prefill_tokens: int) -> None:
        """A step with so many rows and prompt tokens has been planned."""
        if self._burst_prefill_tokens and num_decoding:
            used = 1.0 if num_prefill_tokens > self._max_prefill_tokens else 0.0
            self._saved_bursts = min(MAX_SAVED_BURSTS, self._saved_bursts - used + 1 / STEPS_PER_BURST)
