"""What drafts come from, as the scheduler sees it."""

from typing import Protocol


class DraftRates(Protocol):
    """What `num_drafts` needs to know of a request's drafts."""

    def rate(self, index: int) -> float:
        """How likely draft number `index` is right, if those before it are."""
        ...


class DraftSource(DraftRates, Protocol):
    """What expects a request's next tokens."""

    @property
    def num_unread(self) -> int:
        """How many of the request's tokens `update` has not read yet."""
        ...

    def update(self, max_tokens: int) -> bool:
        """Read at most `max_tokens` more; returns whether all tokens are read and a continuation is known."""
        ...

    def continuation(self, count: int) -> tuple[int, ...]:
        """The next `count` tokens, if `update` knows a continuation."""
        ...
