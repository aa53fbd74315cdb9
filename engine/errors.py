"""The engine's exceptions, each with the numbers or names that explain it.

The HTTP layer turns them into error bodies, the command line into one line and an exit code. They know of neither.
"""

from pathlib import Path


def clipped(text: str, max_chars: int = 600) -> str:
    """A text that may quote a file or a library, as one line of at most `max_chars` characters and an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= max_chars else f"{line[:max_chars]}…"


class EngineError(Exception):
    """An expected error; its message may be shown to the client."""

    def __init__(self, message: str) -> None:
        """The message becomes one line, because it may quote a library's exception."""
        super().__init__(" ".join(message.split()))


class ConfigError(EngineError):
    """A file or setting that the engine cannot start with."""

    def __init__(self, where: str | Path, *, expected: str, found: str) -> None:
        """`where`: the file, flag or environment variable."""
        super().__init__(f"{where}: expected {clipped(expected)}; found {clipped(found)}")
        self.where, self.expected, self.found = str(where), expected, found


class PromptTooLong(EngineError):
    """The prompt leaves no room for a reply within the context."""

    def __init__(self, limit: int, got: int) -> None:
        """Both in tokens; `limit` is the longest prompt."""
        super().__init__(f"the prompt has {got} tokens; at most {limit} fit")
        self.limit, self.got = limit, got


class Busy(EngineError):
    """The queue is full."""

    def __init__(self, retry_after: float) -> None:
        """`retry_after`: seconds."""
        super().__init__(f"too many requests are waiting; try again in {retry_after:.0f} s")
        self.retry_after = retry_after


class InvalidDialog(EngineError):
    """Messages that no chat format can express: wrong roles, wrong order, or nothing to reply to."""

    def __init__(self, problem: str, *, index: int | None = None) -> None:
        """`index`: of the message, if the problem is in one."""
        super().__init__(problem if index is None else f"messages[{index}]: {problem}")
        self.problem, self.index = problem, index
