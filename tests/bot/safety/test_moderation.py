"""The moderation endpoint: thresholds, answers of another shape, and what happens while it is down."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bot.errors import MessageFiltered, MessageUnchecked
from bot.safety.content import ContentFilter, ContentFilters
from bot.settings import Settings
from models.types import GuildSettings
from tests.fakes.moderation import FakeModeration

Chosen = Callable[..., ContentFilter]


@pytest.fixture
async def endpoint() -> AsyncIterator[FakeModeration]:
    async with FakeModeration() as server:
        server.scores = {"hit": ("violence", 0.6), "nag": ("harassment", 0.3)}
        yield server


@pytest.fixture
async def chosen(endpoint: FakeModeration) -> AsyncIterator[Chosen]:
    made: list[ContentFilters] = []

    def choose(*thresholds: tuple[str, float], **values: Any) -> ContentFilter:
        given = {"moderation_url": endpoint.url, "moderation_api_key": "secret", **values}
        made.append(ContentFilters(Settings(_env_file=None, **given)))
        found = made[-1].of(GuildSettings(moderation=True, moderation_thresholds=thresholds))
        assert found is not None
        return found

    yield choose
    for filters in made:
        await filters.close()


@pytest.mark.parametrize(
    ("thresholds", "kept_out"),
    [
        ((), {"hit"}),
        ((("violence", 0.7),), set()),
        ((("violence", 1.0),), set()),
        ((("violence", 0.6),), {"hit"}),
        ((("harassment", 0.2),), {"hit", "nag"}),
        ((("unknown", 0.1),), {"hit"}),
    ],
)
async def test_thresholds_replace_the_endpoints_judgement_of_their_category(
    chosen: Chosen, thresholds: tuple[tuple[str, float], ...], kept_out: set[str]
) -> None:
    here = chosen(*thresholds)
    for text in ("hit", "nag", "hello"):
        assert await here.keeps_out_reply(text) == (text in kept_out)
        if text in kept_out:
            with pytest.raises(MessageFiltered):
                await here.check_message([text])
        else:
            await here.check_message([text, ""])
    assert not here.shows_live


@pytest.mark.parametrize("answer", [{}, [], {"results": []}, {"results": [{"flagged": "no"}]}, {"results": [7]}, "x"])
async def test_an_answer_of_another_shape_counts_as_none(
    endpoint: FakeModeration, chosen: Chosen, answer: object
) -> None:
    endpoint.answer = answer
    closed, opened = chosen(), chosen(moderation_fail="open")
    with pytest.raises(MessageUnchecked):
        await closed.check_message(["hello"])
    assert await closed.keeps_out_reply("hello")
    await opened.check_message(["hello"])
    assert not await opened.keeps_out_reply("hello")


@pytest.mark.parametrize("length", [20_000, 600_000])
async def test_every_part_of_a_long_text_is_judged(endpoint: FakeModeration, chosen: Chosen, length: int) -> None:
    text = "x" * length
    assert await chosen().keeps_out_reply(text + "hit")
    endpoint.texts.clear()
    assert not await chosen().keeps_out_reply(text)
    assert "".join(endpoint.texts) == text


async def test_an_endpoint_that_is_down_or_refuses(endpoint: FakeModeration, chosen: Chosen) -> None:
    endpoint.status = 429
    with pytest.raises(MessageUnchecked):
        await chosen().check_message(["hello"])
    endpoint.port = 9  # discard: refuses every connection
    with pytest.raises(MessageUnchecked):
        await chosen().check_message(["hello"])


def test_off_by_default_and_without_an_endpoint() -> None:
    filters = ContentFilters(Settings(_env_file=None))
    assert filters.of(GuildSettings()) is None
    assert filters.of(GuildSettings(moderation=True)) is None
