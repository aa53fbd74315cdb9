"""What an error of one server means: whether another one may be asked, and what it says of this one.

Only errors before the first token come here. A refusal of the prompt itself would be the same anywhere.
"""

from __future__ import annotations

from typing import Literal

import httpx2
import openai

from bot.engine_client.errors import ContextExceeded, PromptRefused
from bot.errors import Busy, EngineUnavailable, ImagesNotSeen

Verdict = Literal["prompt", "busy", "not_there", "useless"]
"""prompt: the request is at fault; busy: the server has too much to do; not_there: it has not begun the request;
useless: it may have begun it, and nothing came of that."""


class Silent(EngineUnavailable):
    """A server gave no sign of life for so long that another one was asked."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no sign of life for {seconds:g} s")


def verdict_of(error: Exception) -> Verdict | None:
    """What this error says; None for one that is not about the server."""
    if isinstance(error, ContextExceeded | PromptRefused | ImagesNotSeen):
        return "prompt"
    if isinstance(error, Busy):
        return "busy"
    if not isinstance(error, EngineUnavailable):
        return None
    return "not_there" if _has_not_begun(error) else "useless"


def _has_not_begun(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout):
            return True
        if isinstance(cause, openai.APIStatusError):
            return cause.status_code == 503
        cause = cause.__cause__
    return isinstance(error, EngineUnavailable) and error.reason.startswith("503 ")
