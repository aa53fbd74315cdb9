"""The prompt: which pairs of a dialog go into it, and how. Pure functions.

Knows messages, pairs and numbers of tokens; not where any of them come from. Counting tokens is passed in.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from itertools import count as count_up
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
_TEMPLATE_CHARS = 16
_GUESSES = 4
"""So many counts are guessed by length; if that was not it, the range is halved."""


def clean_text(text: str) -> str:
    """What a person wrote as both databases can hold it: without lone surrogates, and without space around it.

    Their NUL characters are refused before (`has_nul`); in what a model wrote they are dropped.
    """
    return clean_piece(text).strip()


def has_nul(text: str) -> bool:
    return "\x00" in text


def clean_piece(text: str) -> str:
    """As `clean_text`, for a piece of a reply, whose outer spaces matter."""
    return _UNSTORABLE.sub("", text)


def build_messages(persona: str, history: Sequence[Pair], text: str) -> list[Message]:
    """System prompt, then the pairs oldest first, then the new message."""
    messages: list[Message] = [Message(role="system", content=persona)] if persona else []
    for pair in history:
        messages.append(Message(role="user", content=pair.user))
        messages.append(Message(role="assistant", content=pair.reply))
    messages.append(Message(role="user", content=text))
    return messages


def max_token_count(messages: Sequence[Message]) -> int:
    """A number of tokens that no tokenizer exceeds: none makes more than one token of a byte."""
    return _TEMPLATE_TOKENS + sum(len(message["content"].encode()) + _TEMPLATE_TOKENS for message in messages)


def select_pairs(history: Sequence[Pair], limit: int, step: int, first_kept: int | None) -> Sequence[Pair]:
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


async def trim_to_tokens(
    persona: str, pairs: Sequence[Pair], text: str, *, room: int, tokens: int, count: Count
) -> tuple[list[Message], int]:
    """Drop whole pairs, oldest first, until the prompt takes at most `room` tokens; also returns how many it takes.

    `tokens` is what the whole takes. Asks for few counts: a guess by length first, then halves. The system prompt and
    the new message always stay; if they do not fit by themselves the returned number is over `room`, and the caller
    says so.
    """
    best = build_messages(persona, pairs, text), tokens
    if tokens <= room or not pairs:
        return best
    sizes = [len(pair.user) + len(pair.reply) + 2 * _TEMPLATE_CHARS for pair in pairs]
    weight = tokens / (len(persona) + len(text) + 2 * _TEMPLATE_CHARS + sum(sizes))  # tokens of one character
    too_few, left = 0, tokens  # dropping `too_few` leaves `left` tokens, over the room
    enough = len(pairs) + 1  # dropping `enough` fits, or there are no more
    for attempt in count_up():
        if enough - too_few == 1:
            return best
        drop = (too_few + enough) // 2
        if attempt < _GUESSES:
            drop = min(max(_drop_for(left - room, sizes, too_few, weight), too_few + 1), enough - 1)
        messages = build_messages(persona, pairs[drop:], text)
        tokens = await count(messages)
        weight = max(left - tokens, 1) / sum(sizes[too_few:drop])
        if tokens <= room:
            enough, best = drop, (messages, tokens)
        else:
            too_few, left = drop, tokens
            best = best if best[1] <= room else (messages, tokens)
    raise AssertionError("unreachable: the range shrinks with every count")


def _drop_for(surplus: float, sizes: Sequence[int], start: int, weight: float) -> int:
    """How many pairs to drop in all, when `start` are dropped already and `surplus` tokens are still too many."""
    for index in range(start, len(sizes)):
        surplus -= sizes[index] * weight
        if surplus <= 0:
            return index + 1
    return len(sizes)
