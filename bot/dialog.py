"""The prompt: which pairs of a dialog go into it, and how. Pure functions.

Knows messages, pairs and numbers of tokens; not where any of them come from. Counting tokens is passed in.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, TypedDict

from models.types import Pair


class Message(TypedDict):
    role: Literal["system", "user", "assistant"]
    content: str


Count = Callable[[Sequence[Message]], Awaitable[int]]

# NUL is what Postgres refuses in a text and SQLite does not; a lone surrogate is no character in UTF-8 at all.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_TEMPLATE_TOKENS = 32
"""More than any chat template puts around one message (role, separators, a date line)."""


def clean_text(text: str) -> str:
    """The text as both databases can hold it: without NUL and lone surrogates, and without space around it."""
    return clean_piece(text).strip()


def clean_piece(text: str) -> str:
    """As `clean_text`, for a piece of a reply, whose outer spaces matter."""
    return _UNSTORABLE.sub("", text)


def build_dialog(persona: str, history: Sequence[Pair], text: str) -> list[Message]:
    """System prompt, then the pairs oldest first, then the new message."""
    messages: list[Message] = [Message(role="system", content=persona)] if persona else []
    for pair in history:
        messages.append(Message(role="user", content=pair.user))
        messages.append(Message(role="assistant", content=pair.reply))
    messages.append(Message(role="user", content=text))
    return messages


def token_bound(messages: Sequence[Message]) -> int:
    """A number of tokens that no tokenizer exceeds: none makes more than one token of a byte."""
    return _TEMPLATE_TOKENS + sum(len(message["content"].encode()) + _TEMPLATE_TOKENS for message in messages)


def window(history: Sequence[Pair], limit: int, step: int, first_kept: int | None) -> Sequence[Pair]:
    """The pairs that the prompt holds: at most the last `limit`.

    With step 1 that is all there is to it, and the oldest pair changes with every turn. With a larger step, passing
    the limit drops `step` pairs at once; until it is passed again the prompt begins alike, so that the engine finds
    the beginning in its cache. `first_kept` is the turn that the last prompt of this dialog began with, if known.
    """
    if limit <= 0:
        return ()
    recent = history[-limit:]
    ids = [pair.turn_id for pair in recent]
    if step <= 1 or first_kept is None:
        return recent
    if first_kept in ids:
        return recent[ids.index(first_kept) :]
    # It fell out: the limit was passed, by one pair at least, and that one is dropped already.
    return recent[min(step, limit) - 1 :] if len(recent) == limit else recent


async def fit(
    persona: str, pairs: Sequence[Pair], text: str, *, room: int, tokens: int, count: Count
) -> tuple[list[Message], int]:
    """Drop whole pairs, oldest first, until the prompt takes at most `room` tokens; also returns how many it takes.

    `tokens` is what the whole takes. Asks for few counts: a guess by length first, then halves. The system prompt and
    the new message always stay; if they do not fit by themselves the returned number is over `room`, and the caller
    says so.
    """
    best = build_dialog(persona, pairs, text), tokens
    if tokens <= room or not pairs:
        return best
    too_few, enough = 0, len(pairs) + 1  # dropping `too_few` does not do, dropping `enough` does (or nothing does)
    drop = _likely_drop(pairs, tokens - room, tokens, best[0])
    while enough - too_few > 1:
        messages = build_dialog(persona, pairs[drop:], text)
        tokens = await count(messages)
        if tokens <= room:
            enough, best = drop, (messages, tokens)
        else:
            too_few = drop
            if best[1] > room:
                best = messages, tokens
        # The guess is most often right or one off: look beside it before halving.
        drop = too_few + 1 if drop == too_few and enough > len(pairs) else (too_few + enough) // 2
    return best


def _likely_drop(pairs: Sequence[Pair], surplus: int, tokens: int, messages: Sequence[Message]) -> int:
    """How many of the oldest pairs make up `surplus` tokens, if every character weighs the same."""
    weight = tokens / max(1, sum(len(message["content"]) + 8 for message in messages))
    for dropped, pair in enumerate(pairs, start=1):
        surplus -= int((len(pair.user) + len(pair.reply) + 16) * weight)
        if surplus <= 0:
            return dropped
    return len(pairs)
