"""A streamed reply on a fake sink: few edits, the newest text, the exact final text."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence

import pytest

from bot.discord_app.message_sink import DeliveryTaken, MessageDeleted, SinkUnreachable
from bot.discord_app.replies import streamed_reply
from bot.discord_app.replies.streamed_reply import EditRate, StreamedReply
from bot.discord_app.rest.request_pace import Turn, Urgency
from bot.discord_app.splitting.reply_messages import MAX_MESSAGES, NO_ANSWER, final_messages, partial_messages
from bot.errors import ReplyDeleted


class FakeSink:
    """A sink that records what it shows. `error_at` makes a call fail; each edit takes `seconds`."""

    def __init__(self, error_at: Callable[[int], Exception | None] = lambda call: None, seconds: float = 0.0) -> None:
        self.messages: dict[int, str] = {}
        self.edits: list[tuple[float, int, str, bool]] = []
        self.files: list[str] = []
        self.fallback: list[str] = []
        self.recorded = False
        self.error_at = error_at
        self.seconds = seconds
        self.calls = 0
        self.concurrent = 0

    def turn(self, index: int, urgency: Urgency) -> contextlib.nullcontext[None]:
        return contextlib.nullcontext()

    async def show(
        self,
        index: int,
        text: str,
        *,
        live: bool,
        last: bool = False,
        file: str | None = None,
        turn: Turn | None = None,
    ) -> None:
        self.calls += 1
        self.concurrent += 1
        assert self.concurrent == 1, "two edits at once"
        try:
            if error := self.error_at(self.calls):
                raise error
            await asyncio.sleep(self.seconds)
        finally:
            self.concurrent -= 1
        self.messages[index] = text
        self.edits.append((time.monotonic(), index, text, live))
        if file is not None:
            self.files.append(file)

    async def delete(self, index: int) -> None:
        del self.messages[index]

    async def postpone(self) -> bool:
        return self.recorded

    async def send_fallback(self, messages: Sequence[str], file: str | None, *, first: int = 0) -> None:
        self.fallback.extend(messages)


async def test_a_slow_edit_queues_no_others() -> None:
    sink = FakeSink(seconds=0.5)
    reply = StreamedReply(sink, EditRate())
    for number in range(30):
        await reply.push(f"{number} ")
        await asyncio.sleep(0.05)
    await reply.finish("the end")
    assert sink.messages == {0: "the end"}
    assert len(sink.edits) <= 3
    assert [live for *_, live in sink.edits][-1] is False


async def test_the_final_edit_never_overtakes_one_under_way() -> None:
    sink = FakeSink(seconds=0.3)
    reply = StreamedReply(sink, EditRate())
    await reply.push("growing")
    await asyncio.sleep(0.5)  # the first edit is on its way
    await reply.finish("grown")
    assert [text for _, _, text, _ in sink.edits] == ["growing", "grown"]


async def test_the_final_edit_waits_for_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_reply, "_EDIT_INTERVAL", 3600.0)
    sink, edit_rate = FakeSink(), EditRate()
    edit_rate.num_running = 400
    reply = StreamedReply(sink, edit_rate)
    await reply.push("growing")
    await asyncio.sleep(0.5)
    async with asyncio.timeout(5):
        await reply.finish("grown")
    assert [text for _, _, text, _ in sink.edits] == ["growing", "grown"]


async def test_a_failed_final_edit_is_retried_and_a_live_one_dropped() -> None:
    sink = FakeSink(error_at=lambda call: OSError("reset") if call in (1, 2) else None)
    reply = StreamedReply(sink, EditRate())
    await reply.push("growing")
    await asyncio.sleep(0.6)
    await reply.finish("grown")
    assert sink.messages == {0: "grown"}


async def test_a_deleted_message_ends_the_reply_at_the_next_push() -> None:
    sink = FakeSink(error_at=lambda call: MessageDeleted())
    reply = StreamedReply(sink, EditRate())
    await reply.push("growing")
    await asyncio.sleep(0.6)
    with pytest.raises(ReplyDeleted):
        await reply.push("more")
    with pytest.raises(ReplyDeleted):
        await reply.finish("grown")
    assert sink.fallback == []


@pytest.mark.parametrize("live", [True, False])
async def test_a_reply_that_another_process_has_taken_is_left_to_it(live: bool) -> None:
    sink = FakeSink(error_at=lambda call: DeliveryTaken())
    reply = StreamedReply(sink, EditRate())
    if live:
        await reply.push("growing")
        await asyncio.sleep(0.6)
        await reply.push("more")
    await reply.finish("grown")
    assert (sink.messages, sink.fallback, sink.calls) == ({}, [], 1)


@pytest.mark.parametrize("live", [True, False])
async def test_an_unreachable_sink_gets_the_reply_by_the_fallback(live: bool) -> None:
    sink = FakeSink(error_at=lambda call: SinkUnreachable())
    reply = StreamedReply(sink, EditRate())
    if live:
        await reply.push("growing")
        await asyncio.sleep(0.6)
        await reply.push("more")  # the generation goes on, so that the reply is not lost
    await reply.finish("grown")
    assert sink.fallback == ["grown"]
    assert sink.calls == 1


async def test_many_replies_share_the_edit_rate() -> None:
    edit_rate = EditRate()
    assert edit_rate.interval == 1.0
    edit_rate.num_running = 400
    assert edit_rate.interval == 10.0


async def test_a_cancelled_reply_leaves_no_task() -> None:
    edit_rate, sink = EditRate(), FakeSink()
    reply = StreamedReply(sink, edit_rate)
    await reply.push("growing")
    assert edit_rate.num_running == 1
    await reply.cancel()
    await reply.cancel()
    assert edit_rate.num_running == 0
    assert [task.get_name() for task in asyncio.all_tasks() if task.get_name() == "reply-edits"] == []


def test_the_messages_of_a_finished_reply() -> None:
    assert final_messages("") == final_messages(" \n ") == ((NO_ANSWER,), None)
    assert final_messages("Hello") == (("Hello",), None)
    long = "x" * 2000 * MAX_MESSAGES
    assert len(final_messages(long)[0]) == MAX_MESSAGES
    assert final_messages(long)[1] is None
    messages, file = final_messages(long + "y")
    assert len(messages) == MAX_MESSAGES
    assert file == long + "y"
    assert len(partial_messages(long + "y")) == MAX_MESSAGES - 1
