"""Which facts belong to a message: those that share rare words with it (BM25), then the newest. Pure functions.

A member has at most fifty, so they are ranked here: encrypted columns could not be searched by a database.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from bot.memory.words import words
from models.types import MemoryFact

_K1, _B = 1.2, 0.5  # the usual constants; facts are short, so their length counts less
_RECENCY = 0.3
"""Of the least score that a shared word gives: among facts that fit equally well the newer one is first."""


def best_facts(facts: Sequence[MemoryFact], message: str, *, max_bytes: int) -> tuple[MemoryFact, ...]:
    """The facts for this message within `max_bytes` of UTF-8, the best first. `facts`: the newest first."""
    chosen: list[MemoryFact] = []
    for fact in ranked(facts, message):
        max_bytes -= len(fact.text.encode()) + 3  # "- " and the end of the line
        if max_bytes < 0:
            break
        chosen.append(fact)
    return tuple(chosen)


def ranked(facts: Sequence[MemoryFact], message: str) -> list[MemoryFact]:
    """All facts, the best for this message first."""
    scores = _bm25([words(fact.text) for fact in facts], set(words(message)))
    newest_first = {fact.fact_id: _RECENCY / (1 + position) for position, fact in enumerate(facts)}
    by_score = sorted(
        zip(facts, scores, strict=True), key=lambda each: each[1] + newest_first[each[0].fact_id], reverse=True
    )
    return [fact for fact, _ in by_score]


def _bm25(documents: Sequence[Counter[str]], wanted: set[str]) -> list[float]:
    if not documents:
        return []
    mean = sum(document.total() for document in documents) / len(documents) or 1.0
    frequency = Counter(word for document in documents for word in document)
    scores = []
    for document in documents:
        length = _K1 * (1 - _B + _B * document.total() / mean)
        score = 0.0
        for word in wanted & document.keys():
            rarity = math.log(1 + (len(documents) - frequency[word] + 0.5) / (frequency[word] + 0.5))
            score += rarity * document[word] * (_K1 + 1) / (document[word] + length)
        scores.append(score)
    return scores
