"""What drafts come from, as the scheduler sees it."""

from typing import Protocol


class DraftSource(Protocol):
    """What expects a request's next tokens."""

    def update(self) -> bool:
        """Take in the request's tokens that are new; returns whether a continuation is known."""
        ...

    def rate(self, index: int) -> float:
        """How likely the continuation's token number `index` is, if those before it are right."""
        ...

    def continuation(self, count: int) -> tuple[int, ...]:
        """The next `count` tokens, if `update` knows a continuation."""
        ...
