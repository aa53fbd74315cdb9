"""From logits to token ids: greedy, or temperature and top-p with a random number of the request's own.

The random number of a token is a pure function of the request's seed and the token's position (Philox-4x32-10, a
counter-based generator), so a request gets the same ids whoever its neighbours are and however often it is preempted.

The definition, which every kernel must follow:
  p = softmax(logits / temperature); rank tokens by p, ties by the lower id; keep a token while the sum of those ranked
  before it is <= top_p (top_p >= 1 keeps all); u = philox(seed, position) in [0, 1); then, in the order of token ids,
  the first kept token at which the running sum of kept p exceeds u * (sum of kept p).
"""

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
_CANDIDATE_COUNTS = (64, 512)  # top-p rarely keeps more; when it does, everything is sorted


def sample(logits: Tensor, temperature: Tensor, top_p: Tensor, seed: Tensor, position: Tensor) -> Tensor:
    """logits [R, V] in 32 bits, everything else [R] -> ids [R]; -1 where the logits are not all numbers.

    temperature and top_p are float32, seed and position int64 (the seed's 64 bits). temperature <= 0 is greedy.
    `position` is that of the token being sampled: the number of tokens before it.
    """
    best = greedy(logits)
    heat = torch.where(temperature > 0, temperature, 1.0).unsqueeze(1)
    probabilities = torch.softmax(logits / heat, dim=-1)
    # Reading a value from a GPU would wait for it, so there everything is sorted.
    few = None if logits.is_cuda else _candidates(probabilities, torch.where(temperature > 0, top_p, 0.0))
    kept = _nucleus(probabilities, top_p) if few is None else few[0]
    running = kept.double().cumsum(dim=-1)
    target = philox_uniform(seed, position).double() * running[:, -1]
    drawn = torch.searchsorted(running, target.unsqueeze(1), right=True)
    if few is not None:
        drawn = few[1].gather(1, drawn)
    return torch.where((temperature > 0) & (best >= 0), drawn.squeeze(1), best)


def greedy(logits: Tensor) -> Tensor:
    """The likeliest id of each row; -1 where the logits are not all numbers."""
    top = logits.max(dim=-1)  # passes a NaN on
    return torch.where(torch.isfinite(top.values), top.indices, -1)


def signed64(seed: int) -> int:
    """The seed's 64 bits as torch's signed integer holds them."""
    seed &= (1 << 64) - 1
    return seed - (1 << 64) if seed >> 63 else seed


def philox_uniform(seed: Tensor, counter: Tensor) -> Tensor:
    """float32 in [0, 1), 24 bits: the first word of Philox-4x32-10 with key = seed, counter = (counter, 0, 0, 0)."""
    key0, key1 = seed & _MASK, (seed >> 32) & _MASK
    c0 = counter & _MASK
    c1 = c2 = c3 = torch.zeros_like(c0)
    for _ in range(10):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]  # wraps at 64 bits, which keeps them all
        high0, low0 = (product0 >> 32) & _MASK, product0 & _MASK
        high1, low1 = (product1 >> 32) & _MASK, product1 & _MASK
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0, key1 = (key0 + _KEY_STEPS[0]) & _MASK, (key1 + _KEY_STEPS[1]) & _MASK
    return (c0 >> 8).float() * 2.0**-24


def _nucleus(probabilities: Tensor, top_p: Tensor) -> Tensor:
    """The probabilities with what top-p drops set to 0."""
    limit, everything = top_p.unsqueeze(1), top_p >= 1
    if not probabilities.is_cuda and bool(everything.all()):
        return probabilities
    ranked, ids = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ranked.cumsum(dim=-1) - ranked
    kept = torch.zeros_like(probabilities)
    kept.scatter_(1, ids, torch.where((before <= limit) | everything.unsqueeze(1), ranked, 0.0))
    return kept


def _candidates(probabilities: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor] | None:
    """What `_nucleus` keeps, without the zeros: the kept of each row's likeliest tokens and their ids, in the order of
    ids. None when some row keeps more than a few."""
    if bool((top_p >= 1).any()):
        return None
    limit = top_p.unsqueeze(1)
    for count in _CANDIDATE_COUNTS:
        order = probabilities.topk(min(count, probabilities.shape[1]), dim=-1)
        ranked, ids = _stable(order.values, order.indices)
        before = ranked.cumsum(dim=-1) - ranked
        kept = torch.where(before <= limit, ranked, 0.0)
        # Enough when the last candidate is dropped, and no token outside ties with one that is kept.
        least = torch.where(before <= limit, ranked, 2.0).amin(dim=-1)
        if bool(((before[:, -1] > top_p) & (ranked[:, -1] < least)).all()):
            by_id, at = ids.sort(dim=-1)
            return kept.gather(1, at), by_id
    return None


def _stable(values: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Candidates by value, highest first, ties by the lower id: topk promises no order among equals."""
    by_id, at = ids.sort(dim=-1)
    ranked, order = values.gather(1, at).sort(dim=-1, descending=True, stable=True)
    return ranked, by_id.gather(1, order)
