"""How many drafts steps on a GPU verify, and how the attention of these steps is divided among programs.

It knows the model's heads and the device, and no rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from engine.config import EngineConfig
from engine.kernels.attention.attention_rules import LARGE_HEAD
from engine.kernels.attention.split_kv import MAX_SPLITS
from engine.kernels.attention.verify_attention import VerifyConfig
from engine.kernels.verification import MAX_RUN
from engine.model.transformer import Transformer
from engine.scheduler.drafts.limits import NO_DRAFTS, DraftLimits

TOKEN_COUNTS: Final = (16, 32, 64, 128)  # of the steps that are recorded for drafts
FIRST_COST, COST = 0.125, 0.005  # of a 7B in bf16, where they are not measured; see docs/performance.md
QUANTIZED_FIRST_COST: Final = 1.0  # taken for about that, where it is not measured
MIN_FIRST_COST, MIN_COST = 0.05, 0.002
EXPERT_COST: Final = 0.4  # in a mixture of experts, where a further token reads other experts; not measured
_PROGRAMS: Final = 512  # of a layer's attention, where there is work for that many


@dataclass(frozen=True, slots=True)
class VerifyLimits:
    """`queries`: most tokens of an item. `items`: how many contexts are divided into, if they are fewer."""

    max_num_seqs: int
    queries: int
    items: int

    @property
    def token_counts(self) -> Sequence[int]:
        """The steps to record: none larger than what all rows can fill."""
        most = self.max_num_seqs * MAX_RUN
        return [count for count in TOKEN_COUNTS if count < 2 * most]

    def max_runs(self, tokens: int) -> int:
        """Rows of a step."""
        return min(self.max_num_seqs, tokens)

    def max_items(self, tokens: int) -> int:
        """Items of a step: those of all rows undivided, or as many as contexts are divided into."""
        return max(self.items, min(tokens, self.max_runs(tokens) + tokens // self.queries))


def verify_config(group: int, head_dim: int, dtype: torch.dtype, *, gpu: bool) -> VerifyConfig:
    """How a context is read: for as many tokens at once as registers hold. `group` query heads read one kv head."""
    most = 64 if head_dim > LARGE_HEAD else 128
    lanes = max(16, 1 << (min(most, MAX_RUN * group) - 1).bit_length())
    lanes = max(lanes, 1 << (group - 1).bit_length())
    if not gpu:
        return VerifyConfig(lanes, tile_tokens=16, min_tiles=1)
    if dtype == torch.float32:  # no tensor cores
        return VerifyConfig(lanes, tile_tokens=16, warps=8 if lanes > 32 else 4)
    return VerifyConfig(lanes, tile_tokens=32 if head_dim > LARGE_HEAD else 64, warps=8 if lanes > 64 else 4)


def verify_limits(config: EngineConfig, model: Transformer) -> VerifyLimits | None:
    """The limits for a model; None if nothing is to be drafted."""
    if config.speculate == "off":
        return None
    block, gpu = model.blocks[0], config.device.type == "cuda"
    group = block.heads // block.kv_heads
    queries = min(MAX_RUN, verify_config(group, block.head_dim, config.dtype, gpu=gpu).max_queries(group))
    items = max(MAX_SPLITS, -(-_PROGRAMS // block.kv_heads)) if gpu else 6
    return VerifyLimits(config.max_num_seqs, queries, items)


def draft_limits(
    config: EngineConfig, model: Transformer, limits: VerifyLimits | None, measured: tuple[float, float] | None = None
) -> DraftLimits:
    """What the scheduler may draft. `measured`: what a step with drafts costs more, and one more token of it."""
    if limits is None:
        return NO_DRAFTS
    first_cost, cost = measured or (FIRST_COST if config.quantize == "none" else QUANTIZED_FIRST_COST, COST)
    least = EXPERT_COST if model.spec.architecture.experts else MIN_COST
    return DraftLimits(
        MAX_RUN - 1,
        cost=max(least, cost),
        first_cost=max(MIN_FIRST_COST, first_cost),
        max_tokens=limits.token_counts[-1],
        beside_prompts=False,
    )
