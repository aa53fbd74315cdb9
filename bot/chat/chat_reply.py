"""A reply as a front-end shows it. Plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A reply as a front-end shows it.

    `saved` is False if the database could not be written: the reply is shown, but missing from the history.
    `remembered` is also False if the dialog was reset meanwhile, or if the model generated no text: the history
    contains only whole pairs.
    """

    text: str
    turn_id: int
    delivery_id: int
    """The record of what is to be shown of it; 0 if there is none."""
    regenerated: bool
    """Whether the turn had a reply before."""
    finish_reason: str
    remembered: bool
    saved: bool
    prompt_tokens: int
    completion_tokens: int
    pairs_in_prompt: int
    is_empty: bool = False
    """Whether nothing was generated; with the finish reason "stopped", because the member did not wait for it."""


STOPPED_IN_QUEUE = ChatReply(
    text="",
    turn_id=0,
    delivery_id=0,
    regenerated=False,
    finish_reason="stopped",
    remembered=False,
    saved=True,
    prompt_tokens=0,
    completion_tokens=0,
    pairs_in_prompt=0,
    is_empty=True,
)
"""The reply to a message that was stopped behind an earlier one of its dialog: nothing was stored of it."""
