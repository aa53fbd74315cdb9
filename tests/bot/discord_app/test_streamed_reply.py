"""A reply that grows, with a surface instead of Discord: few edits, the newest text, the exact end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

import pytest

from bot.discord_app.streamed_reply import (
    MAX_MESSAGES,
    NO_ANSWER,
    EditRate,
    MessageDeleted,
    ReplyDeleted,
    SinkUnreachable,
    StreamedReply,
    final_messages,
    partial_messages,
)


class Wall:
    """A surface that shows what it is told, as fast or as badly as a test wants."""

    def __init__(self, trouble: Callable[[int], Exception | None] = lambda call: None, seconds: float = 0.0) -> None:
        self.messages: dict[int, str] = {}
        self.edits: list[tuple[float, int, str, bool]] = []
        self.files: list[str] = []
        self.posted: list[str] = []
        self.trouble = trouble
        self.seconds = seconds
        self.calls = 0
        self.at_once = 0

    async def show(self, index: int, text: str, *, live: bool, file: str | None = None) -> None:
        self.calls += 1
        self.at_once += 1
        assert self.at_once == 1, "two edits at once"
        try:
            if problem := self.trouble(self.calls):
                raise problem
            await asyncio.sleep(self.seconds)
        finally:
            self.at_once -= 1
        self.messages[index] = text
        self.edits.append((time.monotonic(), index, text, live))
        if file is not None:
            self.files.append(file)

    async def delete(self, index: int) -> None:
        del self.messages[index]

    async def send_fallback(self, messages: Sequence[str], file: str | None) -> None:
        self.posted.extend(messages)


async def test_an_edit_that_takes_long_queues_nothing() -> None:
    wall = Wall(seconds=0.5)
    reply = StreamedReply(wall, EditRate())
    for number in range(30):
        await reply.push(f"{number} ")
        await asyncio.sleep(0.05)
    await reply.finish("the end")
    assert wall.messages == {0: "the end"}
    assert len(wall.edits) <= 3
    assert [live for *_, live in wall.edits][-1] is False


async def test_the_end_never_overtakes_an_edit_that_is_under_way() -> None:
    wall = Wall(seconds=0.3)
    reply = StreamedReply(wall, EditRate())
    await reply.push("growing")
    await asyncio.sleep(0.5)  # the first edit is on its way
    await reply.finish("grown")
    assert [text for _, _, text, _ in wall.edits] == ["growing", "grown"]
    assert wall.edits[1][0] - wall.edits[0][0] >= 1.0


async def test_the_end_waits_for_its_own_message_alone() -> None:
    wall, pace = Wall(), EditRate()
    pace.num_running = 400  # a growing text would wait 10 s
    reply = StreamedReply(wall, pace)
    await reply.push("growing")
    await asyncio.sleep(0.5)
    began = time.monotonic()
    await reply.finish("grown")
    assert time.monotonic() - began < 2.0
    assert [text for _, _, text, _ in wall.edits] == ["growing", "grown"]


async def test_a_final_text_is_tried_again_and_a_live_one_is_let_go() -> None:
    wall = Wall(trouble=lambda call: OSError("reset") if call in (1, 2) else None)
    reply = StreamedReply(wall, EditRate())
    await reply.push("growing")
    await asyncio.sleep(0.6)
    await reply.finish("grown")
    assert wall.messages == {0: "grown"}


async def test_a_deleted_message_ends_the_reply_at_the_next_word() -> None:
    wall = Wall(trouble=lambda call: MessageDeleted())
    reply = StreamedReply(wall, EditRate())
    await reply.push("growing")
    await asyncio.sleep(0.6)
    with pytest.raises(ReplyDeleted):
        await reply.push("more")
    with pytest.raises(ReplyDeleted):
        await reply.finish("grown")
    assert wall.posted == []


@pytest.mark.parametrize("live", [True, False])
async def test_a_surface_out_of_reach_gets_the_reply_elsewhere(live: bool) -> None:
    wall = Wall(trouble=lambda call: SinkUnreachable())
    reply = StreamedReply(wall, EditRate())
    if live:
        await reply.push("growing")
        await asyncio.sleep(0.6)
        await reply.push("more")  # the model goes on: its work is not lost
    await reply.finish("grown")
    assert wall.posted == ["grown"]
    assert wall.calls == 1


async def test_many_replies_share_a_budget_of_edits() -> None:
    pace = EditRate()
    assert pace.interval == 1.0
    pace.num_running = 400
    assert pace.interval == 10.0


async def test_a_cancelled_reply_leaves_no_task() -> None:
    pace, wall = EditRate(), Wall()
    reply = StreamedReply(wall, pace)
    await reply.push("growing")
    assert pace.num_running == 1
    await reply.cancel()
    await reply.cancel()
    assert pace.num_running == 0
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "reply-edits"] == []


def test_what_a_finished_reply_takes() -> None:
    assert final_messages("") == final_messages(" \n ") == ((NO_ANSWER,), None)
    assert final_messages("Hello") == (("Hello",), None)
    long = "x" * 2000 * MAX_MESSAGES
    assert len(final_messages(long)[0]) == MAX_MESSAGES
    assert final_messages(long)[1] is None
    messages, file = final_messages(long + "y")
    assert len(messages) == MAX_MESSAGES
    assert file == long + "y"
    assert len(partial_messages(long + "y")) == MAX_MESSAGES - 1
