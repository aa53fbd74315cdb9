"""Builds the prompt: which pairs of a dialog it contains, and how it is trimmed to the context. Pure functions.

Knows messages, pairs and numbers of tokens, and not where they come from.
"""

from __future__ import annotations

from collections.abc import Sequence

from bot.engine_client.messages import ImagePart, Message, content_with_images, count_images, text_of
from models.types import Pair

_TEMPLATE_TOKENS = 32
"""More than any chat template puts around one message (role, separators, a date line)."""
_TEMPLATE_CHARS = 16
_IMAGE_TOKENS = 8192
"""More than a picture of 1024 pixels a side takes with any model that is known to us (Llama 3.2: 6,404)."""
_MAX_GUESSES = 4
"""The first refusals are followed by a guess by length; after that the number of pairs is halved."""


def build_messages(persona: str, history: Sequence[Pair], text: str, images: Sequence[ImagePart] = ()) -> list[Message]:
    """The system prompt unless it is empty, then the pairs oldest first, then the new message with its pictures."""
    messages: list[Message] = [Message(role="system", content=persona)] if persona else []
    heard: list[str] = []
    """What was said since this character of a scene spoke last; it stands in front of what it answers."""
    for pair in history:
        heard.append(pair.user)
        if pair.heard:
            heard.append(pair.heard)
            continue
        messages.append(Message(role="user", content="\n\n".join(heard)))
        messages.append(Message(role="assistant", content=pair.reply))
        heard = []
    heard.append(text)
    messages.append(Message(role="user", content=content_with_images("\n\n".join(heard), images)))
    return messages


def without_exchanges(pairs: Sequence[Pair], num_exchanges: int) -> Sequence[Pair]:
    """The pairs without those of the oldest messages. An exchange is a user's message with its reply: in a scene it has
    all that was heard before that reply."""
    for index, pair in enumerate(pairs):
        if num_exchanges <= 0:
            return pairs[index:]
        num_exchanges -= not pair.heard
    return pairs[len(pairs) :]


def max_token_count(messages: Sequence[Message]) -> int:
    """An upper bound on the prompt's tokens for any tokenizer: at most one token a byte, and the template's."""
    words = sum(len(text_of(message).encode()) + _TEMPLATE_TOKENS for message in messages)
    return _TEMPLATE_TOKENS + words + _IMAGE_TOKENS * count_images(messages)


def select_pairs(history: Sequence[Pair], limit: int, step: int, first_kept: int | None) -> Sequence[Pair]:
    """The pairs that the prompt contains: at most the last `limit`.

    With step 1 the oldest pair changes with every turn once the limit is reached. With a larger step, exceeding the
    limit drops `step` pairs at once. Until it is exceeded again every prompt has the same prefix, which the engine
    finds in its cache. `first_kept` is the id of the turn that the last prompt of this dialog began with, if known.
    """
    if limit <= 0:
        return ()
    recent = history[-limit:]
    ids = [pair.turn_id for pair in recent]
    if step <= 1 or first_kept is None:
        return recent
    if first_kept in ids:
        return recent[ids.index(first_kept) :]
    # `first_kept` is not among the last `limit`, so the limit was exceeded, and one pair is dropped already.
    return recent[min(step, limit) - 1 :] if len(recent) == limit else recent


def estimate_drop(persona: str, pairs: Sequence[Pair], text: str, *, tokens: int, room: int) -> int:
    """How many pairs to leave out, oldest first, so that a prompt of `tokens` with all of them takes `room` or less.

    By length: for servers that count a whole prompt only. A refusal corrects an estimate that is too low.
    """
    if tokens <= room:
        return 0
    sizes = _sizes(pairs)
    tokens_per_char = tokens / (len(persona) + len(text) + 2 * _TEMPLATE_CHARS + sum(sizes))
    return _drop_for(tokens - room, sizes, 0, tokens_per_char)


def prompt_size(messages: Sequence[Message]) -> int:
    """The size of a prompt in bytes, to compare it with those that a server took or refused."""
    return sum(len(text_of(message).encode()) + _TEMPLATE_CHARS for message in messages)


def pairs_within(pairs: Sequence[Pair], size: float) -> int:
    """How many of the newest pairs have at most this size together, as `prompt_size` counts."""
    kept = 0
    for pair in reversed(pairs):
        size -= len(pair.user.encode()) + len(pair.reply.encode()) + len(pair.heard.encode()) + 2 * _TEMPLATE_CHARS
        if size < 0:
            break
        kept += 1
    return kept


def pairs_to_drop(pairs: Sequence[Pair], refusals: int, tokens: int, surplus: int) -> int:
    """How many pairs to leave out, oldest first, of a prompt of `tokens` that is `surplus` too long: at least one.

    The estimate is low, so that no pair goes without need. After some `refusals`, or without numbers, half of them go.
    """
    if refusals >= _MAX_GUESSES or tokens <= 0 or surplus <= 0:
        return (len(pairs) + 1) // 2 if refusals else 1
    sizes = _sizes(pairs)
    return max(1, _drop_for(surplus, sizes, 0, tokens / sum(sizes)) - 1)


def _sizes(pairs: Sequence[Pair]) -> list[int]:
    return [len(pair.user) + len(pair.reply) + len(pair.heard) + 2 * _TEMPLATE_CHARS for pair in pairs]


def _drop_for(surplus: float, sizes: Sequence[int], start: int, tokens_per_char: float) -> int:
    """How many pairs to drop in all, given that dropping `start` leaves `surplus` tokens too many."""
    for index in range(start, len(sizes)):
        surplus -= sizes[index] * tokens_per_char
        if surplus <= 0:
            return index + 1
    return len(sizes)
