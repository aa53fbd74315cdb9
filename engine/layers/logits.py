"""Adjusts logits before sampling: bias, penalties, masks, min-p and top-k; and log-probabilities of sampled tokens.

Plain torch on any device. Only rows whose request asks for it come here, so that other rows pay nothing. How often a
row's tokens came is counted on the device: the next step may be launched before the host has read the last id.

The definition, in vLLM's order, for one row of logits l and temperature T:
  1. l = -inf where the mask of this step forbids the token
  2. l = -inf at stop tokens, until the output has `min_tokens` tokens
  3. l += logit_bias
  4. l = l / r if l > 0 else l · r at every token of prompt and output, for a repetition penalty r
  5. l -= frequency_penalty · count + presence_penalty · (count > 0), with the token's count in the output
  6. unless greedy: l = -inf where softmax(l / T) is below min_p times its maximum
  7. unless greedy: l = -inf where l is below the k-th highest one, for top_k = k
Then `sampler.sample` applies T and top-p to what is left.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from engine.logits_params import Adjustment, TokenLogprobs

_MIN_COUNTED_ROWS = 4  # rows for which the counts are allocated at first


@dataclass(slots=True)
class _Row:
    adjustment: Adjustment
    temperature: float
    num_output_tokens: int  # once the launched steps have run
    counts_at: int = -1  # its place in the counts; -1: it has no penalties


@dataclass(frozen=True, slots=True)
class _Batch:
    """What does not change as long as the same sequences sample, as tensors on the device; None where none needs it."""

    penalties: Tensor | None  # float32 [3, m]: repetition, frequency, presence
    counted: Tensor | None  # int64 [m]: which of the rows have penalties
    counts_at: Tensor | None  # int64 [m]: their places in the counts
    bias: tuple[Tensor, Tensor, Tensor] | None  # rows, ids, values
    min_p: Tensor | None  # float32 [rows, 1]: temperature · ln(min_p), and -inf for none
    top_k: Tensor | None  # int64 [rows, 1]
    is_unlimited: Tensor | None  # bool [rows, 1]: rows without top-k; set with `top_k`
    largest_k: int


class LogitsAdjuster:
    """The adjusted rows of a runner, by their place in the persistent batch. Used on rank 0 only."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self._vocab_size, self._device = vocab_size, device
        self._rows: dict[int, _Row] = {}
        self._in_prompt = torch.zeros(0, vocab_size, dtype=torch.bool, device=device)  # by place
        self._counts = torch.zeros(0, vocab_size, dtype=torch.int32, device=device)  # in the output, by place
        self._free_places: list[int] = []
        self._cached: tuple[tuple[int, ...], _Batch] | None = None  # of the rows that were adjusted last

    def __contains__(self, row: int) -> bool:
        return row in self._rows

    def add(self, row: int, adjustment: Adjustment, temperature: float) -> None:
        """A sequence enters a row. Its history so far is counted."""
        self.remove(row)
        entry = self._rows[row] = _Row(adjustment, temperature, adjustment.num_output_tokens)
        if not adjustment.params.has_penalties:
            return
        entry.counts_at = place = self._take_place()
        split = adjustment.num_prompt_tokens
        prompt, output = adjustment.token_ids[:split], adjustment.token_ids[split:]
        self._in_prompt[place].zero_()
        self._counts[place].zero_()
        # A number assigned at an index would be copied from the host on a GPU, which waits; a fill does not.
        self._in_prompt[place].index_fill_(0, self._to_device(prompt, torch.int64), True)
        if output:
            ids = self._to_device(output, torch.int64)
            self._counts[place].index_add_(0, ids, torch.ones_like(ids, dtype=torch.int32))

    def remove(self, row: int) -> None:
        """The row is free. Nothing happens if it was not adjusted."""
        entry = self._rows.pop(row, None)
        if entry is not None:
            self._cached = None
            if entry.counts_at >= 0:
                self._free_places.append(entry.counts_at)

    def adjust(self, logits: Tensor, rows: Sequence[int], masks: dict[int, bytes]) -> None:
        """Adjust float32 logits [len(rows), V] of adjusted rows, in place, for one token of each."""
        batch = self._batch(tuple(rows))
        if masks:
            logits.masked_fill_(self._forbidden(rows, masks), -math.inf)
        self._forbid_early_stops(logits, rows)
        if batch.bias is not None:
            at, ids, values = batch.bias
            logits.index_put_((at, ids), values, accumulate=True)
        if batch.counted is not None and batch.counts_at is not None and batch.penalties is not None:
            some = logits[batch.counted]
            counts, in_prompt = self._counts[batch.counts_at], self._in_prompt[batch.counts_at]
            repetition, frequency, presence = (each.unsqueeze(1) for each in batch.penalties)
            penalized = torch.where(some > 0, some / repetition, some * repetition)
            some = torch.where(in_prompt | (counts > 0), penalized, some)
            some -= frequency * counts + presence * (counts > 0)
            logits[batch.counted] = some
        if batch.min_p is not None:
            lowest = logits.amax(dim=-1, keepdim=True) + batch.min_p
            logits.masked_fill_(logits < lowest, -math.inf)
        if batch.top_k is not None and batch.is_unlimited is not None:
            highest = logits.topk(batch.largest_k, dim=-1).values.gather(1, batch.top_k - 1)
            logits.masked_fill_(logits < highest.masked_fill(batch.is_unlimited, -math.inf), -math.inf)
        for row in rows:
            self._rows[row].num_output_tokens += 1

    def record(self, rows: Sequence[int], ids: Tensor) -> None:
        """Count the ids [len(rows)] that were sampled for the rows of the last `adjust`; -1 counts as 0."""
        batch = self._batch(tuple(rows))
        if batch.counts_at is not None and batch.counted is not None:
            chosen = ids[batch.counted].long().clamp_min(0)
            ones = torch.ones_like(chosen, dtype=torch.int32)
            self._counts.index_put_((batch.counts_at, chosen), ones, accumulate=True)

    def _take_place(self) -> int:
        if not self._free_places:
            size = len(self._counts)
            added = max(_MIN_COUNTED_ROWS, size)
            self._in_prompt = torch.cat((self._in_prompt, self._in_prompt.new_zeros(added, self._vocab_size)))
            self._counts = torch.cat((self._counts, self._counts.new_zeros(added, self._vocab_size)))
            self._free_places += range(size, size + added)
        return self._free_places.pop()

    def _batch(self, rows: tuple[int, ...]) -> _Batch:
        """The tensors of these rows. Sequences stay in a step for long, so most steps find those of the step before."""
        if self._cached is None or self._cached[0] != rows:
            self._cached = (rows, self._make_batch([self._rows[row] for row in rows]))
        return self._cached[1]

    def _make_batch(self, entries: list[_Row]) -> _Batch:
        params = [entry.adjustment.params for entry in entries]
        counted = [index for index, entry in enumerate(entries) if entry.counts_at >= 0]
        bias = [(at, *item) for at, each in enumerate(params) for item in each.logit_bias]
        sampled = [entry.temperature > 0 for entry in entries]
        min_ps = [
            entry.temperature * math.log(each.min_p) if each.min_p > 0 and is_sampled else -math.inf
            for entry, each, is_sampled in zip(entries, params, sampled, strict=True)
        ]
        top_ks = [
            each.top_k if 0 < each.top_k < self._vocab_size and is_sampled else 0
            for each, is_sampled in zip(params, sampled, strict=True)
        ]
        penalties = [
            [params[index].repetition_penalty for index in counted],
            [params[index].frequency_penalty for index in counted],
            [params[index].presence_penalty for index in counted],
        ]
        return _Batch(
            penalties=self._to_device(penalties, torch.float32) if counted else None,
            counted=self._to_device(counted, torch.int64) if counted else None,
            counts_at=self._to_device([entries[index].counts_at for index in counted], torch.int64)
            if counted
            else None,
            bias=(
                self._to_device([at for at, _, _ in bias], torch.int64),
                self._to_device([id_ for _, id_, _ in bias], torch.int64),
                self._to_device([value for _, _, value in bias], torch.float32),
            )
            if bias
            else None,
            min_p=self._to_device(min_ps, torch.float32).unsqueeze(1) if max(min_ps) > -math.inf else None,
            top_k=self._to_device([max(1, k) for k in top_ks], torch.int64).unsqueeze(1) if any(top_ks) else None,
            is_unlimited=self._to_device([not k for k in top_ks], torch.bool).unsqueeze(1) if any(top_ks) else None,
            largest_k=max(top_ks),
        )

    def _forbid_early_stops(self, logits: Tensor, rows: Sequence[int]) -> None:
        at: list[int] = []  # in the flattened logits
        for index, row in enumerate(rows):
            entry = self._rows[row]
            if entry.num_output_tokens < entry.adjustment.params.min_tokens:
                start = index * self._vocab_size
                at += [start + id_ for id_ in entry.adjustment.stop_token_ids if 0 <= id_ < self._vocab_size]
        if at:
            logits.view(-1).index_fill_(0, self._to_device(at, torch.int64), -math.inf)

    def _forbidden(self, rows: Sequence[int], masks: dict[int, bytes]) -> Tensor:
        """bool [len(rows), V]; rows without a mask allow all."""
        width = -(-self._vocab_size // 8)
        bits = np.full((len(rows), width), 0xFF, dtype=np.uint8)
        for index, row in enumerate(rows):
            if (mask := masks.get(row)) is not None:
                bits[index] = 0
                bits[index, : min(len(mask), width)] = np.frombuffer(mask, dtype=np.uint8)[:width]
        packed = send_to_device(torch.from_numpy(bits), self._device)
        shifts = torch.arange(8, dtype=torch.uint8, device=self._device)
        allowed = (packed.unsqueeze(-1) >> shifts) & 1
        return allowed.view(len(rows), -1)[:, : self._vocab_size] == 0

    def _to_device(self, values: Sequence[object], dtype: torch.dtype) -> Tensor:
        return send_to_device(torch.tensor(values, dtype=dtype), self._device)


def send_to_device(host: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, without waiting for the steps that run there."""
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host


@dataclass(frozen=True, slots=True)
class LogprobsBatch:
    """Log-probabilities of a step's rows that ask for them, on their way to the host."""

    rows: tuple[int, ...]
    counts: tuple[int, ...]  # how many of the most likely tokens each row wants
    sampled: Tensor  # float32 [rows]
    top: Tensor  # float32 [rows, largest count]
    top_ids: Tensor  # int64 [rows, largest count]

    def to_host(self) -> "LogprobsBatch":
        """Start the copy to the host; it has ended when what is recorded on the stream afterwards has."""

        def copy(tensor: Tensor) -> Tensor:
            host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            return host.copy_(tensor, non_blocking=True)

        return replace(self, sampled=copy(self.sampled), top=copy(self.top), top_ids=copy(self.top_ids))

    def by_row(self, ids: dict[int, int]) -> dict[int, TokenLogprobs]:
        """For the sampled ids; the tensors must have arrived on the host."""
        columns = zip(
            self.rows, self.counts, self.sampled.tolist(), self.top.tolist(), self.top_ids.tolist(), strict=True
        )
        return {
            row: TokenLogprobs(logprob, tuple(zip(top_ids[:count], top[:count], strict=True)))
            for row, count, logprob, top, top_ids in columns
            if ids[row] >= 0
        }


def log_probabilities(logits: Tensor, ids: Tensor, rows: Sequence[int], counts: Sequence[int]) -> LogprobsBatch:
    """Of unadjusted float32 logits [len(rows), V], at the sampled ids [len(rows)] (-1 counts as 0)."""
    scores = logits.log_softmax(dim=-1)
    sampled = scores.gather(1, ids.long().clamp_min(0).unsqueeze(1)).squeeze(1)
    top = scores.topk(min(max(counts), scores.shape[-1]), dim=-1)
    return LogprobsBatch(tuple(rows), tuple(counts), sampled, top.values, top.indices)
