"""What drafts come from, as the scheduler sees it."""

from typing import Protocol


class DraftSource(Protocol):
    """What expects a request's next tokens."""

    @property
    def num_unread(self) -> int:
        """Tokens of the request that `update` has not taken in."""
        ...

    def update(self, max_tokens: int) -> bool:
        """Take in at most this many tokens; returns whether all are taken in and a continuation is known."""
        ...

    def rate(self, index: int) -> float:
        """How likely the continuation's token number `index` is, if those before it are right."""
        ...

    def continuation(self, count: int) -> tuple[int, ...]:
        """The next `count` tokens, if `update` knows a continuation."""
        ...
