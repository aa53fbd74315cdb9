"""What several rows have in common at the beginning of their contexts, as the attention kernels take it.

Rows of one persona share the pages of its prompt. `prefix_attention.py` reads such a prefix once for all of them, and
`decode_attention.py` the rest of each row; both leave partial results that are merged by their softmax's sums.

All integers are int32 and come from the host, so that a CUDA graph serves whatever rows share. The item list is: the
number of items, padded to PREFIX_HEADER ints; then for each item, one part of a prefix for some of its members,
PREFIX_ITEM ints: place of its first member in `members`, number of members, first position, end, number of the part.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

MAX_PARTS = 16  # of one prefix
PREFIX_HEADER, PREFIX_ITEM = 8, 8  # ints of the item list


@dataclass(frozen=True, slots=True)
class PrefixWork:
    """The shared prefixes of a step of some slots, and memory for what is read of them.

    `slots` [slots, 2]: for each slot the tokens and parts of its prefix, both 0 for none. The tokens are whole tiles of
    both kernels and end before the row's new token. `members`: slots, those of an item side by side. `items`: the item
    list. `partial_out` float32 [slots · heads · MAX_PARTS, DB] holds each part's sum of exp2(score − max) · value, and
    `partial_stats` float32 [slots · heads · MAX_PARTS, 2] its max and sum.
    """

    slots: torch.Tensor
    members: torch.Tensor
    items: torch.Tensor
    partial_out: torch.Tensor
    partial_stats: torch.Tensor


@dataclass(frozen=True, slots=True)
class PrefixConfig:
    """How a prefix is read. `block`: queries of a matrix product, members × heads of a group. `tile_tokens`: positions
    read at once. `warps`, `stages`: Triton's.
    """

    block: int
    tile_tokens: int
    warps: int = 4
    stages: int = 2

    def max_members(self, group: int) -> int:
        """Members of an item; `group` query heads read one kv head."""
        return self.block // group
