"""What shared prefixes are read once for several rows: how long, for how many rows, and how many at a time.

It knows the model's heads and the device, and no rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from engine.config import EngineConfig
from engine.kernels.attention.attention_rules import LARGE_HEAD
from engine.kernels.attention.prefix_work import PrefixConfig
from engine.model.transformer import Transformer

MIN_PREFIX: Final = 512  # tokens; shorter ones come from the L2 cache at little cost
MIN_MEMBERS: Final = 3
_PROGRAMS: Final = 512  # of a layer's prefixes, where there is work for that many


@dataclass(frozen=True, slots=True)
class PrefixLimits:
    """The rows and tokens that groups are made of.

    A group has at least `min_members` rows and `min_tokens` tokens. An item has up to `max_members`; about `items` of
    them fill the GPU. Every part of a prefix is a multiple of `tile` tokens.
    """

    min_members: int
    min_tokens: int
    max_members: int
    items: int
    tile: int

    def max_items(self, slots: int) -> int:
        """Upper bound on the items of a step of `slots` slots; the last part of each prefix may be shorter."""
        return self.items + -(-slots // self.max_members) + slots // self.min_members


def prefix_config(group: int, head_dim: int, dtype: torch.dtype, *, gpu: bool) -> PrefixConfig:
    """How a prefix is read: by as many members at once as registers hold. `group` query heads read one kv head."""
    if not gpu:
        return PrefixConfig(block=16, tile_tokens=16)
    if dtype == torch.float32:  # no tensor cores
        return PrefixConfig(block=32, tile_tokens=16)
    if group == 1:
        return PrefixConfig(block=16, tile_tokens=32 if head_dim > LARGE_HEAD else 64)
    return PrefixConfig(block=32, tile_tokens=32) if head_dim > LARGE_HEAD else PrefixConfig(block=64, tile_tokens=64)


def prefix_limits(config: EngineConfig, model: Transformer) -> PrefixLimits | None:
    """The limits for a model; None if its prefixes are never shared, as where every layer has a window."""
    block, gpu = model.blocks[0], config.device.type == "cuda"
    group = block.heads // block.kv_heads
    max_members = prefix_config(group, block.head_dim, config.dtype, gpu=gpu).max_members(group)
    windows = [each.rule.window for each in model.blocks]
    has_global_layer = any(window is None or window >= config.max_context for window in windows)
    if not has_global_layer or max_members < 2 or config.max_num_seqs < MIN_MEMBERS or config.max_context <= MIN_PREFIX:
        return None
    # Whole tiles of decode attention as well as of the prefixes', both at most 64 tokens.
    tile, items = (64, -(-_PROGRAMS // block.kv_heads)) if gpu else (16, 4)
    return PrefixLimits(MIN_MEMBERS, MIN_PREFIX, max_members, items, tile)
