"""How many prompt tokens a step may prefill: few while rows decode, many while none does.

A step with a burst of prompt tokens computes them at the lowest cost, but takes several times as long as an ordinary
step. While rows decode, only one step in STEPS_PER_BURST may be a burst, so that the 95th percentile of the time
between two tokens stays that of an ordinary step. Unused bursts are saved, up to MAX_SAVED_BURSTS.

It counts steps. It knows neither time nor requests.
"""

from typing import Final

STEPS_PER_BURST: Final = 25
MAX_SAVED_BURSTS: Final = 16.0
ROW_COUNTS: Final = (32, 64, 128, 256)  # of the steps that decode rows beside prompt tokens, where rows are counted


def counted_rows(num_decoding: int, max_num_seqs: int) -> int:
    """The rows of the smallest step that decodes `num_decoding` rows: one of ROW_COUNTS, or all rows."""
    return min((count for count in ROW_COUNTS if num_decoding <= count < max_num_seqs), default=max_num_seqs)


class TokenBudget:
    """The budget of each step, by the number of rows that decode in it."""

    def __init__(
        self, max_prefill_tokens: int, burst_prefill_tokens: int, max_num_seqs: int, *, counts_rows: bool = False
    ) -> None:
        """With `burst_prefill_tokens` 0 there are no bursts: the budget of every step is `max_prefill_tokens`.

        With `counts_rows` both are budgets of all tokens: what is left beside the decoding rows is for prompts.
        """
        self._max_prefill_tokens = max_prefill_tokens
        self._burst_prefill_tokens = burst_prefill_tokens
        self._max_num_seqs, self._counts_rows = max_num_seqs, counts_rows
        self._saved_bursts = MAX_SAVED_BURSTS

    def prefill_tokens(self, num_decoding: int) -> int:
        """The prompt tokens of a step in which `num_decoding` rows decode."""
        if not self._burst_prefill_tokens:
            return self._beside_rows(self._max_prefill_tokens, num_decoding)
        if not num_decoding:
            self._saved_bursts = MAX_SAVED_BURSTS
        tokens = self._burst_prefill_tokens if self._saved_bursts >= 1 else self._max_prefill_tokens
        return self._beside_rows(tokens, num_decoding)

    def record_step(self, num_decoding: int, num_prefill_tokens: int) -> None:
        """A step with this many decoding rows and prompt tokens has been scheduled."""
        if self._burst_prefill_tokens and num_decoding:
            used = 1.0 if num_prefill_tokens > self._beside_rows(self._max_prefill_tokens, num_decoding) else 0.0
            self._saved_bursts = min(MAX_SAVED_BURSTS, self._saved_bursts - used + 1 / STEPS_PER_BURST)

    def _beside_rows(self, tokens: int, num_decoding: int) -> int:
        if not self._counts_rows or not num_decoding:
            return tokens
        return tokens - counted_rows(num_decoding, self._max_num_seqs)
