"""The feed-forward of a mixture of experts: a router chooses some of a block's experts for each token.

Every rank has its columns of all experts, as of a dense feed-forward, so ranks are equally busy whatever is chosen.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.checkpoint import ModelSpec
from engine.distributed.tensor_parallel import ColumnLinear, RowLinear, all_reduce, ffn_width, local_product


def gate(gate_up: Tensor, *, gelu: bool) -> Tensor:
    """[T, 2 F] -> [T, F]: activation(first half) * second half."""
    first, second = gate_up.chunk(2, dim=-1)
    return (F.gelu(first, approximate="tanh") if gelu else F.silu(first)).mul_(second)


class Expert(nn.Module):
    """The matrices of one expert on this rank, fused as a dense feed-forward's."""

    def __init__(self, spec: ModelSpec, world_size: int, dtype: torch.dtype) -> None:
        super().__init__()
        ffn = ffn_width(spec, world_size)
        self.w13 = ColumnLinear(spec.dim, 2 * ffn, world_size=world_size, dtype=dtype)
        self.w2 = RowLinear(ffn, spec.dim, world_size=world_size, dtype=dtype)


class Experts(nn.Module):
    """All experts of a block, and the router [experts, dim], which every rank holds."""

    def __init__(self, spec: ModelSpec, world_size: int, dtype: torch.dtype) -> None:
        super().__init__()
        blocks = spec.architecture
        self.router = nn.Parameter(
            torch.empty(blocks.experts, spec.dim, dtype=dtype, device="meta"), requires_grad=False
        )
        self.experts = nn.ModuleList(Expert(spec, world_size, dtype) for _ in range(blocks.experts))
        self.per_token, self.normalized = blocks.experts_per_token, blocks.normalized_experts
        self._gelu = blocks.uses_gelu

    @property
    def all(self) -> list[Expert]:
        """`experts`, typed."""
        return [expert for expert in self.experts if isinstance(expert, Expert)]

    def forward(self, x: Tensor) -> Tensor:
        """[T, dim] -> [T, dim], the same on every rank.

        Tokens are grouped by expert, so an expert's matrices are read once a step. A token's sum has the order of its
        experts' numbers, whatever the other tokens chose.
        """
        weights, chosen = F.linear(x, self.router).softmax(-1, dtype=torch.float32).topk(self.per_token)
        if self.normalized:
            weights = weights / weights.sum(-1, keepdim=True)
        order = chosen.flatten().argsort(stable=True)
        tokens, by_pair = order // self.per_token, weights.flatten()[order].to(x.dtype).unsqueeze(1)
        out, end = torch.zeros_like(x), 0
        for expert, count in zip(self.all, self._counts(chosen), strict=True):
            if count:
                begin, end = end, end + count
                rows = tokens[begin:end]
                gated = gate(local_product(expert.w13, x[rows]), gelu=self._gelu)
                out.index_add_(0, rows, local_product(expert.w2, gated).to(x.dtype) * by_pair[begin:end])
        return all_reduce(out)

    def _counts(self, chosen: Tensor) -> list[int]:
        counts: list[int] = torch.bincount(chosen.flatten(), minlength=len(self.experts)).tolist()
        return counts
