"""Looks up what a request's tokens continued with before, in its own prompt and reply, and how often that came true.

Each token costs one look-up and one entry. The last NGRAM tokens are the key, packed into one number, so two keys are
never taken for each other. A continuation that comes true is followed, and the longer it has been, the likelier is its
next token: its rates are kept by length. They are learned from every token of the reply, also where nothing was
drafted, so that drafting stops and starts again without trying.

It knows token ids of one request. It does not know what a draft costs.
"""

from collections.abc import Sequence
from typing import Final

NGRAM: Final = 3  # tokens that must be equal
ID_BITS: Final = 21  # of a token id
MAX_PROMPT: Final = 8192  # only a prompt's last tokens are indexed, at most this many
LENGTH_BOUNDS: Final = (4, 8, 16)  # a rate for continuations below each, and one for the longer ones
FIRST_RATES: Final = (0.5, 0.65, 0.8, 0.9)  # before the request has shown its own
NEWEST_WEIGHT: Final = 0.12  # of the newest token in a rate

_MASK: Final = (1 << NGRAM * ID_BITS) - 1


class NgramIndex:
    """The index of one request, over the list that the scheduler appends its tokens to."""

    __slots__ = ("_at", "_first", "_first_output", "_key", "_length", "_num_tokens", "_rates", "_seen", "_token_ids")

    def __init__(self, token_ids: Sequence[int], num_prompt_tokens: int) -> None:
        """`token_ids` may grow, but what is in it does not change."""
        self._token_ids, self._first_output = token_ids, num_prompt_tokens
        self._key = 0
        self._num_tokens = self._first = max(0, num_prompt_tokens - MAX_PROMPT)
        self._seen: dict[int, int] = {}  # position after the key's last occurrence
        self._at, self._length = -1, 0  # the expected next token's position, and how many before it are equal; -1: none
        self._rates = list(FIRST_RATES)

    @property
    def num_unread(self) -> int:
        """See `DraftSource`."""
        return len(self._token_ids) - self._num_tokens

    def update(self, max_tokens: int) -> bool:
        """See `DraftSource`. A thousand tokens take about a millisecond."""
        token_ids, seen, key = self._token_ids, self._seen, self._key
        at, length = self._at, self._length
        end = min(len(token_ids), self._num_tokens + max_tokens)
        for position in range(self._num_tokens, end):
            token_id = token_ids[position]
            if at >= 0:
                came_true = token_ids[at] == token_id
                if position >= self._first_output:
                    self._learn(length, came_true=came_true)
                at, length = (at + 1, length + 1) if came_true else (-1, 0)
            key = (key << ID_BITS | token_id) & _MASK
            if position >= self._first + NGRAM - 1:
                if at < 0:
                    at = seen.get(key, -1)
                    length = NGRAM if at >= 0 else 0
                seen[key] = position + 1
        self._num_tokens, self._key, self._at, self._length = end, key, at, length
        return at >= 0 and end == len(token_ids)

    def rate(self, index: int) -> float:
        """How likely the continuation's token number `index` is, if those before it are right."""
        return self._rates[_bucket(self._length + index)]

    def continuation(self, count: int) -> tuple[int, ...]:
        """The next `count` tokens, if `update` knows a continuation. One that reaches the end repeats itself."""
        token_ids, at, end = self._token_ids, self._at, self._num_tokens
        found: list[int] = []
        for index in range(at, at + count):
            found.append(token_ids[index] if index < end else found[index - end])
        return tuple(found)

    def _learn(self, length: int, *, came_true: bool) -> None:
        bucket = _bucket(length)
        self._rates[bucket] += NEWEST_WEIGHT * (came_true - self._rates[bucket])


def _bucket(length: int) -> int:
    return sum(length >= bound for bound in LENGTH_BOUNDS)
