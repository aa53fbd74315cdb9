"""Samples token ids from logits: greedy, or with temperature and top-p and a random stream for each request.

The random number of a token is a pure function of the request's seed and the token's position (Philox-4x32-10, a
counter-based generator). So a request gets the same ids whatever else is in the batch, and after preemption.

The definition, which every kernel must implement:
  1. p = softmax(logits / temperature)
  2. Rank tokens by p, ties by the lower id. Keep those for which the sum of p ranked before them is <= top_p
     (all, if top_p >= 1).
  3. u = philox(seed, position) in [0, 1). Take the first kept token, in the order of ids, at which the cumulative sum
     of kept p exceeds u * (sum of all kept p).
"""

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF
_CANDIDATE_COUNTS = (64, 512)  # top-p rarely keeps more tokens; if it does, the vocabulary is sorted


def sample(logits: Tensor, temperature: Tensor, top_p: Tensor, seed: Tensor, position: Tensor) -> Tensor:
    """Sample one token for each row: float32 logits [R, V], all else [R] -> int64 ids [R].

    temperature and top_p are float32; temperature <= 0 is greedy. seed (see `signed64`) and position are int64;
    position counts the tokens before the sampled one. The id is -1 where the highest logit is NaN or infinite.
    """
    best = greedy(logits)
    divisor = torch.where(temperature > 0, temperature, 1.0).unsqueeze(1)
    probabilities = torch.softmax(logits / divisor, dim=-1)
    # The search for candidates reads values on the host. That would synchronize with a GPU, so sort everything there.
    candidates = None if logits.is_cuda else _candidates(probabilities, torch.where(temperature > 0, top_p, 0.0))
    kept = _nucleus(probabilities, top_p) if candidates is None else candidates[0]
    cumulative = kept.double().cumsum(dim=-1)
    target = philox_uniform(seed, position).double() * cumulative[:, -1]
    sampled = torch.searchsorted(cumulative, target.unsqueeze(1), right=True)
    if candidates is not None:
        sampled = candidates[1].gather(1, sampled)
    return torch.where((temperature > 0) & (best >= 0), sampled.squeeze(1), best)


def greedy(logits: Tensor) -> Tensor:
    """The most likely id of each row, [R]; -1 where the highest logit is NaN or infinite."""
    top = logits.max(dim=-1)  # propagates NaN
    return torch.where(torch.isfinite(top.values), top.indices, -1)


def signed64(seed: int) -> int:
    """An unsigned 64-bit seed as the int64 with the same bits, since torch has no uint64 arithmetic."""
    seed &= (1 << 64) - 1
    return seed - (1 << 64) if seed >> 63 else seed


def philox_uniform(seed: Tensor, counter: Tensor) -> Tensor:
    """float32 in [0, 1) with 24 random bits, for int64 seed and counter of equal shape.

    The first word of Philox-4x32-10 (Salmon et al. 2011, Random123) with key = seed, counter = (counter, 0, 0, 0).
    """
    key0, key1 = seed & _MASK, (seed >> 32) & _MASK
    c0 = counter & _MASK
    c1 = c2 = c3 = torch.zeros_like(c0)
    for _ in range(10):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]  # overflow wraps and keeps all 64 bits
        high0, low0 = (product0 >> 32) & _MASK, product0 & _MASK
        high1, low1 = (product1 >> 32) & _MASK, product1 & _MASK
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0, key1 = (key0 + _KEY_STEPS[0]) & _MASK, (key1 + _KEY_STEPS[1]) & _MASK
    return (c0 >> 8).float() * 2.0**-24


def _nucleus(probabilities: Tensor, top_p: Tensor) -> Tensor:
    """[R, V] with the probabilities that top-p drops set to 0."""
    limit, keep_all = top_p.unsqueeze(1), top_p >= 1
    if not probabilities.is_cuda and bool(keep_all.all()):
        return probabilities
    ranked, ids = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ranked.cumsum(dim=-1) - ranked
    kept = torch.zeros_like(probabilities)
    kept.scatter_(1, ids, torch.where((before <= limit) | keep_all.unsqueeze(1), ranked, 0.0))
    return kept


def _candidates(probabilities: Tensor, top_p: Tensor) -> tuple[Tensor, Tensor] | None:
    """`_nucleus` restricted to the most likely tokens: (probabilities, ids), both [R, k], in the order of ids.

    None if some row keeps more tokens than the largest candidate count.
    """
    if bool((top_p >= 1).any()):
        return None
    limit = top_p.unsqueeze(1)
    for count in _CANDIDATE_COUNTS:
        order = probabilities.topk(min(count, probabilities.shape[1]), dim=-1)
        ranked, ids = _stable(order.values, order.indices)
        before = ranked.cumsum(dim=-1) - ranked
        kept = torch.where(before <= limit, ranked, 0.0)
        # Sufficient if the last candidate is dropped, and no token outside can tie with one that is kept.
        lowest_kept = torch.where(before <= limit, ranked, 2.0).amin(dim=-1)
        if bool(((before[:, -1] > top_p) & (ranked[:, -1] < lowest_kept)).all()):
            sorted_ids, order_by_id = ids.sort(dim=-1)
            return kept.gather(1, order_by_id), sorted_ids
    return None


def _stable(values: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Candidates by value, highest first, ties by the lower id; topk does not define the order of ties."""
    sorted_ids, order_by_id = ids.sort(dim=-1)
    ranked, order = values.gather(1, order_by_id).sort(dim=-1, descending=True, stable=True)
    return ranked, sorted_ids.gather(1, order)
