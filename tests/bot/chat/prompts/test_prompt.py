"""Properties of the prompt: what it contains, and that trimming drops only whole pairs, oldest first."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bot.chat.prompts.prompt import (
    build_messages,
    estimate_drop,
    max_token_count,
    pairs_within,
    prompt_size,
    select_pairs,
)
from bot.engine_client.messages import Message
from models.types import Pair

texts = st.text(max_size=60)
pair_lists = st.lists(st.tuples(texts, texts), max_size=25).map(
    lambda rows: [Pair(number + 1, user, reply) for number, (user, reply) in enumerate(rows)]
)


def tokens_of(messages: Sequence[Message]) -> int:
    return sum(3 + len(message["content"].encode()) // 2 for message in messages)


@given(texts, pair_lists, texts)
def test_roles_alternate_and_every_pair_is_whole(persona: str, pairs: list[Pair], text: str):
    messages = build_messages(persona, pairs, text)
    assert [message["role"] for message in messages] == (
        ["system"] * bool(persona) + ["user", "assistant"] * len(pairs) + ["user"]
    )
    assert messages[-1]["content"] == text


@given(st.integers(0, 12), st.integers(1, 15), st.integers(0, 40))
def test_at_most_limit_pairs_are_selected_and_the_prefix_changes_once_a_step(limit: int, step: int, total: int):
    """A dialog grows by one pair a turn; the last `limit` are fetched each time."""
    first_kept: int | None = None
    first_turns: list[int] = []
    for done in range(total + 1):
        history = [Pair(7 * number, "u", "r") for number in range(max(0, done - limit), done)]
        kept = select_pairs(history, limit, step, first_kept)
        assert len(kept) <= limit
        assert list(kept) == history[len(history) - len(kept) :]
        assert len(kept) >= min(done, limit - min(step, limit) + 1 if limit else 0)
        first_kept = kept[0].turn_id if kept else None
        if first_kept is not None:
            first_turns.append(first_kept)
    changes = sum(before != after for before, after in pairwise(first_turns))
    if limit and total > limit:
        assert changes == -(-(total - limit) // min(step, limit))


def test_without_a_first_kept_turn_the_last_pairs_are_selected():
    history = [Pair(number, "u", "r") for number in range(10)]
    assert list(select_pairs(history, 10, 5, None)) == history
    assert list(select_pairs(history, 4, 1, 2)) == history[-4:]


@given(texts, pair_lists, texts, st.integers(0, 1500))
def test_an_estimate_keeps_what_fits_and_is_bounded(persona: str, pairs: list[Pair], text: str, room: int):
    whole = tokens_of(build_messages(persona, pairs, text))
    drop = estimate_drop(persona, pairs, text, tokens=whole, room=room)
    assert 0 <= drop <= len(pairs)
    assert drop == 0 or whole > room
    if pairs and whole > room:
        assert drop >= 1


def test_an_estimate_for_even_words_is_off_by_one_pair_at_most():
    pairs = [Pair(number, "what is " * (number % 7 + 1), "it is so " * (number % 11 + 1)) for number in range(150)]
    whole = tokens_of(build_messages("persona " * 50, pairs, "hello"))
    for room in range(300, whole, 397):
        drop = estimate_drop("persona " * 50, pairs, "hello", tokens=whole, room=room)
        left = [tokens_of(build_messages("persona " * 50, pairs[cut:], "hello")) for cut in range(len(pairs) + 1)]
        right = next(cut for cut, tokens in enumerate(left) if tokens <= room)
        assert abs(left[drop] - left[right]) < 0.1 * whole


@given(texts, pair_lists, texts, st.integers(0, 3000))
def test_pairs_within_a_size_are_the_newest_that_have_it(persona: str, pairs: list[Pair], text: str, size: int):
    fixed = prompt_size(build_messages(persona, (), text))
    kept = pairs_within(pairs, size)
    sizes = [prompt_size(build_messages(persona, pairs[len(pairs) - n :], text)) - fixed for n in range(len(pairs) + 1)]
    assert kept == max(n for n, taken in enumerate(sizes) if taken <= size)


@given(texts, pair_lists, texts)
def test_the_token_bound_is_above_one_token_a_byte(persona: str, pairs: list[Pair], text: str):
    messages = build_messages(persona, pairs, text)
    assert max_token_count(messages) > sum(len(message["content"].encode()) for message in messages)
