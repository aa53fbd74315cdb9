"""Everything the engine refuses on purpose, with the numbers or names that explain it.

The HTTP layer turns these into answers, the command line into one line and an exit code. Nothing here knows either.
"""

from pathlib import Path


class EngineError(Exception):
    """A refusal whose text may be shown to whoever made the request."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))  # one line, whatever a library put into its own message


class ConfigError(EngineError):
    """A file or setting that the engine cannot start with."""

    def __init__(self, where: str | Path, *, expected: str, found: str) -> None:
        super().__init__(f"{where}: expected {expected}; found {found}")
        self.where, self.expected, self.found = str(where), expected, found


class PromptTooLong(EngineError):
    """The prompt leaves no room for a reply within the context."""

    def __init__(self, limit: int, got: int) -> None:
        super().__init__(f"the prompt has {got} tokens; at most {limit} fit")
        self.limit, self.got = limit, got


class Busy(EngineError):
    """Too many requests are waiting; `retry_after` is in seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__(f"too many requests are waiting; try again in {retry_after:.0f} s")
        self.retry_after = retry_after


class InvalidDialog(EngineError):
    """Messages that no chat format can express: wrong roles, wrong order, nothing to answer."""

    def __init__(self, problem: str, *, index: int | None = None) -> None:
        super().__init__(problem if index is None else f"messages[{index}]: {problem}")
        self.problem, self.index = problem, index
