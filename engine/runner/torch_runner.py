"""The runner in plain torch. A CPU uses it, and on any device it is the reference for the faster runners.

Row state (page tables, positions, sampling parameters) is plain Python. Sampled ids stay on the device until they are
waited for, so that a step can be launched before the ids of the step before it are read. Only a step that verifies
drafts reads its ids at once: they decide where its rows go on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from torch import Tensor

from engine.config import EngineConfig
from engine.distributed import tensor_parallel
from engine.layers.logits import LogitsAdjuster, LogprobsBatch, log_probabilities
from engine.layers.paged_attention import PagedAttention, Segment
from engine.layers.paged_kv import PagedKV
from engine.layers.sampler import greedy, sample, signed64
from engine.logits_params import TokenLogprobs
from engine.model.transformer import Transformer, padding_ids
from engine.runner.host_pages import HostPages
from engine.runner.memory import allocated_bytes
from engine.runner.page_images import PageImages, page_bytes
from engine.runner.torch_step import NO_SAMPLES, DraftRun, TorchStepHandle
from engine.scheduler.drafts.limits import DraftLimits
from engine.scheduler.drafts.verification import VerifiedRun, num_accepted
from engine.scheduler.step_plan import StepPlan

MAX_DRAFT_TOKENS: Final = 11  # with the token before them 12, as many as a few groups of weights are read for


@dataclass(slots=True)
class _RowState:
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    num_logprobs: int | None = None
    num_computed_tokens: int = 0
    page_ids: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Samples:
    """The tokens that a step samples, in order: which of its tokens each follows, its row and its position."""

    sources: list[int]
    rows: tuple[int, ...]
    positions: list[int]


class TorchRunner:
    """A `Runner` on any device, built with its KV pages."""

    draft_cost = 0.25  # taken for about that of the C++, which was measured: see docs/performance-cpu.md
    # A draft attends as a token that decodes does: torch sums in another order for several queries.
    _attends_drafts_alone = True

    def __init__(self, config: EngineConfig, model: Transformer, num_kv_pages: int, num_host_slots: int = 0) -> None:
        self.num_kv_pages, self.num_host_slots = num_kv_pages, num_host_slots
        self._config, self._model, self._device = config, model, config.device
        max_drafts = MAX_DRAFT_TOKENS if config.device.type == "cpu" else 0
        self.draft_limits = DraftLimits(max_drafts, self.draft_cost)
        # torch's own products of floats depend on how many tokens are multiplied, in their last bits.
        self.drafts_by_default = not model.spec.architecture.experts and all(
            layer.quantized is not None
            for layer in (*(linear for block in model.blocks for linear in block.linears), model.output)
        )
        self._padding_ids = padding_ids(model)
        self._adjuster = LogitsAdjuster(model.spec.vocab_size, config.device)
        self._rows = [_RowState() for _ in range(config.max_num_seqs)]
        self._last_ids = torch.zeros(config.max_num_seqs, dtype=torch.int64, device=config.device)  # sampled, by row
        spec = model.spec
        self._kv: PagedKV | None = PagedKV(
            spec.n_layers, num_kv_pages, config.page_size, model.kv_heads, spec.head_dim, config.dtype, config.device
        )
        self._host_pages = HostPages(self.kv, num_host_slots)

    @torch.inference_mode()
    def execute_async(self, plan: StepPlan) -> TorchStepHandle:
        """Launch a step; see `Runner`."""
        self._host_pages.copy(plan.copies)
        self._update_rows(plan)
        token_ids, positions, segments, samples = self._flatten_batch(plan)
        if not segments:
            return NO_SAMPLES
        logits = self._logits(token_ids, positions, segments, samples.sources)
        if logits is None:
            return NO_SAMPLES
        sampled, logprobs = self._sample(logits, samples, dict(plan.token_masks))
        ids = tensor_parallel.broadcast(sampled)
        if plan.verifications:
            runs = self._accept_drafts(plan, ids)
            return TorchStepHandle.of(samples.rows, ids, logprobs, runs)
        self._last_ids[torch.tensor(samples.rows, device=self._device)] = ids.clamp_min(0)
        return TorchStepHandle.of(samples.rows, ids, logprobs)

    def wait(self, handle: TorchStepHandle) -> dict[int, int]:
        """The ids that a step sampled; see `Runner`."""
        return handle.id_by_row()

    def logprobs(self, handle: TorchStepHandle) -> dict[int, TokenLogprobs]:
        """Log-probabilities of a step's ids; see `Runner`."""
        return handle.logprobs_by_row()

    def verified(self, handle: TorchStepHandle) -> dict[int, VerifiedRun]:
        """The ids of rows that verified drafts; see `Runner`."""
        return handle.verified_by_row()

    @property
    def page_bytes(self) -> int:
        """Bytes of one page; see `Runner`."""
        return page_bytes(self.kv.parts)

    @torch.inference_mode()
    def export_pages(self, places: Sequence[tuple[int, int]]) -> PageImages:
        """Copies of pages and slots; see `Runner`."""
        return self._host_pages.export(places)

    @torch.inference_mode()
    def import_pages(self, places: Sequence[tuple[int, int]], images: Sequence[bytes]) -> None:
        """Write pages and slots; see `Runner`."""
        self._host_pages.import_(places, images)

    def prepare(self) -> bool:
        """Nothing is left to prepare; see `Runner`."""
        return False

    @property
    def num_ready_slots(self) -> int:
        """All slots; see `Runner`."""
        return self.num_host_slots

    def allocated_bytes(self) -> int:
        """Bytes that this rank holds on its device."""
        return allocated_bytes(self._device)

    def close(self) -> None:
        """Free the KV pages and the slots."""
        self._kv = None
        self._host_pages.parts = ()

    @property
    def kv(self) -> PagedKV:
        """The KV pages. Raises RuntimeError when the runner is closed."""
        if self._kv is None:
            raise RuntimeError("the runner is closed")
        return self._kv

    def _logits(
        self, token_ids: Tensor, positions: Tensor, segments: Sequence[Segment], sources: Sequence[int]
    ) -> Tensor | None:
        """Run the model; [len(sources), vocab] logits of the step's tokens `sources`, or None if there are none."""
        hidden = self._model(token_ids, positions, PagedAttention(self.kv, segments, self._device))
        return self._model.logits(hidden[torch.tensor(sources, device=self._device)]) if sources else None

    def _update_rows(self, plan: StepPlan) -> None:
        for row in plan.freed_rows:
            self._rows[row] = _RowState()
            self._adjuster.remove(row)
        for sequence in plan.new_sequences:
            self._rows[sequence.row] = _RowState(
                sequence.temperature, sequence.top_p, sequence.seed, sequence.num_logprobs
            )
            if sequence.adjustment is not None:
                self._adjuster.add(sequence.row, sequence.adjustment, sequence.temperature)
        for row, index, page_id in plan.page_grants:
            page_ids = self._rows[row].page_ids
            if index != len(page_ids):
                raise ValueError(f"row {row} has {len(page_ids)} pages and is granted page number {index}")
            page_ids.append(page_id)

    def _flatten_batch(self, plan: StepPlan) -> tuple[Tensor, Tensor, list[Segment], _Samples]:
        """The step's token ids and positions, both [T], chunks, verifications, decode rows; and what is sampled."""
        token_ids: list[int] = []
        positions: list[int] = []
        segments: list[Segment] = []
        sources: list[int] = []
        for chunk in plan.chunks:
            state, end = self._rows[chunk.row], chunk.start + len(chunk.token_ids)
            token_ids += chunk.token_ids
            positions += range(chunk.start, end)
            segments.append(Segment(state.page_ids, chunk.start, len(chunk.token_ids)))
            state.num_computed_tokens = end
            if chunk.is_last:
                sources.append(len(token_ids) - 1)
        for verification in plan.verifications:
            state = self._rows[verification.row]
            start, end = state.num_computed_tokens, state.num_computed_tokens + verification.num_samples
            sources += range(len(token_ids), len(token_ids) + verification.num_samples)
            token_ids += (int(self._last_ids[verification.row]), *verification.drafts)
            positions += range(start, end)
            if self._attends_drafts_alone:
                segments += [Segment(state.page_ids, position, 1) for position in range(start, end)]
            else:
                segments.append(Segment(state.page_ids, start, end - start))
        for row in plan.decode_rows:
            state = self._rows[row]
            sources.append(len(positions))
            positions.append(state.num_computed_tokens)
            segments.append(Segment(state.page_ids, state.num_computed_tokens, 1))
            state.num_computed_tokens += 1
        flat = torch.tensor(token_ids, dtype=torch.int64, device=self._device)
        if plan.decode_rows:
            flat = torch.cat((flat, self._last_ids[torch.tensor(plan.decode_rows, device=self._device)]))
        samples = _Samples(sources, plan.sampled_rows, [positions[source] + 1 for source in sources])
        return flat, torch.tensor(positions, device=self._device), segments, samples

    def _accept_drafts(self, plan: StepPlan, ids: Tensor) -> tuple[DraftRun, ...]:
        """Set where each sampled row goes on, and with which token; returns what the rows that verified drafts got."""
        sampled: list[int] = ids.tolist()
        rows = [chunk.row for chunk in plan.chunks if chunk.is_last]
        first = len(rows)
        last_ids, runs = sampled[:first], []
        for verification in plan.verifications:
            end = first + verification.num_samples
            count = 1 + num_accepted(verification.drafts, sampled[first:end])
            self._rows[verification.row].num_computed_tokens += count
            rows.append(verification.row)
            last_ids.append(sampled[first + count - 1])
            runs.append(DraftRun(verification.row, first, count))
            first = end
        rows += plan.decode_rows
        last_ids += sampled[first:]
        self._last_ids[torch.tensor(rows)] = torch.tensor(last_ids).clamp_min(0)
        return tuple(runs)

    def _sample(
        self, logits: Tensor, samples: _Samples, masks: dict[int, bytes]
    ) -> tuple[Tensor, LogprobsBatch | None]:
        """An id of each sample on rank 0, and log-probabilities if a row asks for them; on others, room for its ids."""
        rows = samples.rows
        if self._config.rank:
            return torch.empty(len(rows), dtype=torch.int64, device=self._device), None
        if self._padding_ids is not None:
            logits.index_fill_(1, self._padding_ids, -math.inf)
        counts = {at: n for at, row in enumerate(rows) if (n := self._rows[row].num_logprobs) is not None}
        adjusted = [at for at, row in enumerate(rows) if row in self._adjuster]
        if not counts and not adjusted:
            return self._choose(logits, samples), None
        asked = torch.tensor(list(counts), dtype=torch.int64, device=self._device)
        unadjusted = logits[asked] if counts else None
        at = torch.tensor(adjusted, dtype=torch.int64, device=self._device)
        adjusted_rows = [rows[index] for index in adjusted]
        if adjusted:
            some = logits[at]
            self._adjuster.adjust(some, adjusted_rows, masks)
            logits[at] = some
        ids = self._choose(logits, samples)
        if adjusted:
            self._adjuster.record(adjusted_rows, ids[at])
        if unadjusted is None:
            return ids, None
        return ids, log_probabilities(unadjusted, ids[asked], list(counts), list(counts.values()))

    def _choose(self, logits: Tensor, samples: _Samples) -> Tensor:
        """One id for each sample, by its row's temperature and top-p."""
        states = [self._rows[row] for row in samples.rows]
        if all(state.temperature <= 0 for state in states):
            return greedy(logits)
        return sample(
            logits,
            torch.tensor([state.temperature for state in states], device=self._device),
            torch.tensor([state.top_p for state in states], device=self._device),
            torch.tensor([signed64(state.seed) for state in states], device=self._device),
            torch.tensor(samples.positions, device=self._device),
        )
