"""What the host sends to a GPU before a step: the input buffer's layout, how a plan is written into it, and the batch
shapes that are recorded.

It deals in integers, and knows neither kernels nor graphs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

from torch import Tensor

from engine.config import EngineConfig
from engine.kernels.attention.chunk_attention import QUERY_BLOCK
from engine.kernels.attention.prefix_work import PREFIX_HEADER, PREFIX_ITEM
from engine.kernels.attention.verify_attention import VERIFY_ITEM
from engine.kernels.verification import RUN
from engine.runner.cuda.batch.input_batch import BatchShape, StepInputs, VerifyInputs
from engine.runner.cuda.batch.prefix_limits import PrefixLimits
from engine.runner.cuda.batch.query_blocks import query_block, query_blocks
from engine.runner.cuda.batch.shared_prefixes import PrefixGroups
from engine.runner.cuda.batch.verify_limits import VerifyLimits
from engine.runner.cuda.batch.verify_lists import verify_lists
from engine.scheduler.step_plan import NewSequence, StepPlan
from engine.scheduler.token_budget import ROW_COUNTS, counted_rows

MAX_PAGE_GRANTS = 512  # page grants that a step carries; further ones are sent before it
# Total tokens of the recorded steps with prefill; beyond the last, it doubles.
TOKEN_COUNTS = (64, 128, 192, 256, 320, 384, 512, 640, 768, 1024)
USUAL_TOTALS = (64, 128, 256, 512)  # recorded before the engine is ready
# Of a step that reads shared prefixes once; in larger ones attention matters less. Several ranks record every step
# before they are ready, so there only steps without prefill do it.
MAX_SHARING_TOKENS = 512
_NEW_SEQUENCE, _GRANT, _HEADER = 5, 3, 8  # ints of each


class InputBuffers:
    """The layout of the input buffer, an int32 tensor. The regions that a step without prefill needs come first."""

    def __init__(
        self,
        max_num_seqs: int,
        shapes: Sequence[BatchShape],
        *,
        gpu: bool,
        heads: int,
        head_dim: int,
        prefixes: PrefixLimits | None = None,
        verify: VerifyLimits | None = None,
    ) -> None:
        """`heads`: query heads of this rank."""
        self.max_num_seqs, self._gpu, self._heads, self._head_dim = max_num_seqs, gpu, heads, head_dim
        self._prefixes, self._verify = prefixes, verify
        max_prefill_tokens = max(shape.num_prefill_tokens for shape in shapes)
        max_blocks = max(self.max_blocks(shape) for shape in shapes)
        verified = max((shape.num_tokens for shape in shapes if shape.verifies), default=0)
        lengths = {
            "header": _HEADER, "slot_rows": max_num_seqs, "sample_rows": max_num_seqs, "sample_sources": max_num_seqs,
            "sample_positions": max_num_seqs, "new_sequences": max_num_seqs * _NEW_SEQUENCE,
            "page_grants": MAX_PAGE_GRANTS * _GRANT, "prefix_slots": 2 * max_num_seqs, "prefix_members": max_num_seqs,
            "prefix_items": self._prefix_ints(max_num_seqs), "verify_rows": verified, "verify_offsets": verified,
            "verify_drafts": verified, "verify_sources": verified,
            "verify_runs": verify.max_runs(verified) * RUN if verify else 0,
            "verify_items": verify.max_items(verified) * VERIFY_ITEM if verify else 0,
            "verify_tokens": verified, "verify_positions": verified, "verify_targets": verified,
            "query_blocks": max_blocks * QUERY_BLOCK,
            "chunk_tokens": max_prefill_tokens, "chunk_rows": max_prefill_tokens,
            "chunk_positions": max_prefill_tokens,
        }  # fmt: skip
        self.offsets: dict[str, int] = {}
        end = 0
        for name, length in lengths.items():
            self.offsets[name] = end
            end += -(-length // 16) * 16  # each region begins at a multiple of 64 bytes
        self._size = end

    def size(self, shape: BatchShape | None = None) -> int:
        """Ints from the beginning of the buffer that a step of this shape reads; None: any step."""
        if shape is None or (shape.num_prefill_tokens and not shape.verifies):
            return self._size
        return self.offsets["verify_tokens" if shape.verifies else "verify_rows"]

    def view(self, buffer: Tensor, name: str, length: int) -> Tensor:
        """The first `length` ints of a region."""
        return buffer[self.offsets[name] : self.offsets[name] + length]

    def inputs(self, buffer: Tensor, shape: BatchShape) -> StepInputs:
        """Views of the regions that a step of this shape reads."""
        if shape.verifies:
            return self._verify_inputs(buffer, shape)
        samples = self.max_samples(shape)
        blocks = self.view(buffer, "query_blocks", self.max_blocks(shape) * QUERY_BLOCK).view(-1, QUERY_BLOCK)
        return StepInputs(
            self.view(buffer, "slot_rows", shape.num_slots), self.view(buffer, "sample_rows", samples),
            self.view(buffer, "sample_sources", samples), self.view(buffer, "sample_positions", samples),
            self.view(buffer, "chunk_tokens", shape.num_prefill_tokens),
            self.view(buffer, "chunk_rows", shape.num_prefill_tokens),
            self.view(buffer, "chunk_positions", shape.num_prefill_tokens), blocks,
            self.view(buffer, "prefix_slots", 2 * shape.num_slots).view(-1, 2),
            self.view(buffer, "prefix_members", shape.num_slots),
            self.view(buffer, "prefix_items", self._prefix_ints(shape.num_slots)),
        )  # fmt: skip

    def _verify_inputs(self, buffer: Tensor, shape: BatchShape) -> StepInputs:
        if self._verify is None:
            raise ValueError("this buffer has no room for drafts")

        def view(name: str) -> Tensor:
            return self.view(buffer, name, shape.num_tokens)

        runs, items = self._verify.max_runs(shape.num_tokens), self._verify.max_items(shape.num_tokens)
        none = buffer[:0]
        return StepInputs(
            none, view("verify_rows"), view("verify_sources"), view("verify_targets"), view("verify_tokens"),
            view("verify_rows"), view("verify_positions"), none.view(0, QUERY_BLOCK), none.view(0, 2), none, none,
            VerifyInputs(
                view("verify_offsets"), view("verify_drafts"),
                self.view(buffer, "verify_runs", runs * RUN).view(-1, RUN),
                self.view(buffer, "verify_items", items * VERIFY_ITEM).view(-1, VERIFY_ITEM),
            ),
        )  # fmt: skip

    def _prefix_ints(self, slots: int) -> int:
        """Length of the list of shared prefixes' items."""
        return 0 if self._prefixes is None else PREFIX_HEADER + PREFIX_ITEM * self._prefixes.max_items(slots)

    def query_block(self, shape: BatchShape) -> int:
        """Prefill tokens of a full query block."""
        return query_block(shape, gpu=self._gpu, head_dim=self._head_dim)

    def max_blocks(self, shape: BatchShape) -> int:
        """Upper bound on query blocks: the last block of each row's chunk may be partial."""
        tokens = shape.num_prefill_tokens
        return min(tokens, -(-tokens // self.query_block(shape)) + self.max_num_seqs)

    def max_samples(self, shape: BatchShape) -> int:
        """Upper bound on rows that a step of this shape samples for."""
        return shape.num_samples if shape.verifies else min(self.max_num_seqs, shape.num_samples)

    def fill(self, host: Tensor, plan: StepPlan, shape: BatchShape, groups: PrefixGroups | None = None) -> Tensor:
        """Write the plan into a host buffer for a step of this shape; returns the buffer.

        `groups`: what the decoding rows share, for a shape that shares prefixes.
        """
        max_samples = self.max_samples(shape)
        values = host.numpy()

        def put(name: str, items: Sequence[int]) -> None:
            if items:
                start = self.offsets[name]
                values[start : start + len(items)] = items

        put("header", (len(plan.new_sequences), len(plan.page_grants)))
        if shape.verifies and self._verify is not None:
            for name, numbers in verify_lists(plan, shape.num_tokens, self._verify).items():
                put(name, numbers)
            put("new_sequences", [item for sequence in plan.new_sequences for item in _sequence_ints(sequence)])
            put("page_grants", [item for grant in plan.page_grants for item in grant])
            return host
        put("slot_rows", [*plan.decode_rows, *[-1] * (shape.num_slots - len(plan.decode_rows))])
        put("new_sequences", [item for sequence in plan.new_sequences for item in _sequence_ints(sequence)])
        put("page_grants", [item for grant in plan.page_grants for item in grant])
        if shape.shares_prefixes:
            slots, members, items = ((), (), ()) if groups is None else (groups.slots, groups.members, groups.items)
            put("prefix_slots", [*chain.from_iterable(slots), *[0] * (2 * (shape.num_slots - len(slots)))])
            put("prefix_members", members)
            padding = [0] * (PREFIX_ITEM - len(items[0])) if items else []
            put(
                "prefix_items", [len(items), *[0] * (PREFIX_HEADER - 1), *chain(*[(*item, *padding) for item in items])]
            )
        sources: list[int] = []
        sample_positions: list[int] = []
        if shape.num_prefill_tokens:
            token_ids: list[int] = []
            rows: list[int] = []
            positions: list[int] = []
            for chunk in plan.chunks:
                length = len(chunk.token_ids)
                token_ids += chunk.token_ids
                rows += [chunk.row] * length
                positions += range(chunk.start, chunk.start + length)
                if chunk.is_last:
                    sources.append(shape.num_slots + len(token_ids) - 1)
                    sample_positions.append(chunk.start + length)
            put("chunk_tokens", [*token_ids, *[0] * (shape.num_prefill_tokens - len(token_ids))])
            put("chunk_rows", [*rows, *[-1] * (shape.num_prefill_tokens - len(rows))])
            put("chunk_positions", positions)
            blocks = query_blocks(
                plan.chunks, first_token=shape.num_slots, block=self.query_block(shape), heads=self._heads,
                max_blocks=self.max_blocks(shape),
            )  # fmt: skip
            put("query_blocks", list(chain.from_iterable(blocks)))
        sources += range(len(plan.decode_rows))
        sample_positions += [-1] * len(plan.decode_rows)
        unused = max_samples - len(sources)
        put("sample_rows", [*plan.sampled_rows, *[-1] * unused])
        put("sample_sources", [*sources, *[0] * unused])
        put("sample_positions", [*sample_positions, *[-1] * unused])
        return host


def batch_shapes(
    config: EngineConfig, *, prefixes: PrefixLimits | None = None, verify: VerifyLimits | None = None
) -> list[BatchShape]:
    """The shapes to record: 1, 2, 4 … slots alone; prefill tokens alone; prefill tokens beside some counts of slots.

    With `prefixes`, some of enough slots a second time, in which prefixes that slots share are read once. With
    `verify`, rows that verify drafts.

    Shapes with prefill have round totals, as the total decides what the matrix products cost. Between 128 and 1024
    tokens that cost grows in stairs, and each total is the end of a stair.
    """
    max_slots = config.max_num_seqs
    largest = max(config.max_prefill_tokens, config.burst_prefill_tokens)
    beside = sorted({counted_rows(count, max_slots) for count in (*ROW_COUNTS, max_slots)})
    prefill_shapes = [BatchShape(0, total) for total in _totals(largest)]
    for slots in beside:
        for total in _totals(largest if config.counts_rows else largest + slots):
            if total - slots >= min(16, largest):
                prefill_shapes.append(BatchShape(slots, total - slots))
    shapes = [BatchShape(count, 0) for count in _slot_counts(max_slots)] + prefill_shapes
    if verify is not None:
        shapes += [BatchShape(0, count, verifies=True) for count in verify.token_counts]
    if prefixes is None:
        return shapes
    most = MAX_SHARING_TOKENS if config.world_size == 1 else 0
    return shapes + [
        replace(shape, shares_prefixes=True)
        for shape in shapes
        if shape.num_slots >= prefixes.min_members and (shape.num_tokens <= most or not shape.num_prefill_tokens)
    ]


def first_shapes(shapes: Iterable[BatchShape]) -> set[BatchShape]:
    """Slots alone, usual prompts, the largest shape beside each count of slots, and for drafts the smallest and the
    largest: every plan fits one of them.

    No shapes that share prefixes: a plan fits the same shape without it.
    """
    first: set[BatchShape] = set()
    largest: dict[int, BatchShape] = {}
    verifying = [shape for shape in shapes if shape.verifies]
    by_size = sorted(verifying, key=lambda shape: shape.num_tokens)
    first |= {*by_size[:1], *by_size[-1:]}
    for shape in shapes:
        if shape.shares_prefixes or shape.verifies:
            continue
        is_usual = shape.num_tokens in USUAL_TOTALS and shape.num_slots <= ROW_COUNTS[0]
        if not shape.num_prefill_tokens or is_usual:
            first.add(shape)
        if shape.num_tokens >= largest.get(shape.num_slots, shape).num_tokens:
            largest[shape.num_slots] = shape
    return first | set(largest.values())


def _slot_counts(max_slots: int) -> list[int]:
    """1, 2, 4 … and from 64 on also the middle between two powers of two, up to `max_slots`."""
    counts, count = [], 1
    while count < max_slots:
        counts += [count] if count < 64 else [count, count * 3 // 2]
        count *= 2
    return [count for count in counts if count < max_slots] + [max_slots]


def _totals(largest: int) -> Iterator[int]:
    """TOKEN_COUNTS, then doubled, up to the first total of at least `largest`."""
    total = 0
    for total in TOKEN_COUNTS:
        yield total
        if total >= largest:
            return
    while total < largest:
        total *= 2
        yield total


def _sequence_ints(sequence: NewSequence) -> tuple[int, ...]:
    """(row, temperature bits, top-p bits, seed low, seed high), as `pointwise.apply_updates` reads them."""
    packed = struct.pack("<ffQ", sequence.temperature, sequence.top_p, sequence.seed & (1 << 64) - 1)
    return (sequence.row, *struct.unpack("<iiii", packed))
