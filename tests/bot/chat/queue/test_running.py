"""Replies at once: as many as their keys allow, in order of arrival, and no place is lost."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from bot.chat.queue.running import RunningReplies
from bot.chat.queue.sending import Sending
from bot.chat.queue.wait_estimate import WaitEstimate


async def test_a_member_waits_for_their_own_places_and_keeps_nobody_else_waiting() -> None:
    running, order = RunningReplies(), []
    over = {name: asyncio.Event() for name in ("a1", "a2", "a3", "b1")}

    async def reply(name: str) -> None:
        async with running.hold((("member", name[0]), 2), (("guild", 1), 3)):
            order.append(name)
            await over[name].wait()

    tasks = [asyncio.create_task(reply(name)) for name in over]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert order == ["a1", "a2", "b1"]
    assert running.count(("guild", 1)) == 3
    over["a2"].set()
    await asyncio.wait_for(tasks[1], 5)
    await asyncio.sleep(0)
    assert order == ["a1", "a2", "b1", "a3"]
    for each in over.values():
        each.set()
    await asyncio.gather(*tasks)
    assert running.total == running.count(("guild", 1)) == 0


@given(st.data())
def test_cancelled_at_any_moment_a_place_is_given_back(data: st.DataObject) -> None:
    async def run() -> None:
        running, at_once = RunningReplies(), 0

        async def reply(steps: int) -> None:
            nonlocal at_once
            async with running.hold(("guild", 2)):
                at_once += 1
                assert at_once <= 2
                try:
                    for _ in range(steps):
                        await asyncio.sleep(0)
                finally:
                    at_once -= 1

        tasks = [asyncio.create_task(reply(data.draw(st.integers(0, 4)))) for _ in range(8)]
        for index in data.draw(st.lists(st.integers(0, 7), max_size=8)):
            await asyncio.sleep(0)
            tasks[index].cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert running.total == 0

    asyncio.run(run())


async def test_to_a_server_in_order_of_arrival_a_guild_sends_as_many_ahead_as_it_writes_at_once() -> None:
    now = 0.0
    estimate = WaitEstimate(lambda: now)
    sending = Sending(lambda guild: estimate, is_fair=lambda guild: False, clock=lambda: now)
    tasks = [asyncio.create_task(sending.turn("a")) for _ in range(6)]

    async def sent() -> int:
        for _ in range(3):
            await asyncio.sleep(0)
        return sum(task.done() for task in tasks)

    assert await sent() == 1
    other = await asyncio.wait_for(sending.turn("b"), 5)  # not behind them
    other.release()
    for expected in (2, 4):  # the first reply begins, and its second token shows that one is written
        reply = estimate.first_token("a")
        reply.tokens()
        for task in tasks[: await sent()]:
            task.result().release()
        now += 0.01
        assert await sent() == expected
    assert estimate.most_at_once == 2
    for task in tasks:
        task.cancel()


async def test_while_nothing_comes_more_and_more_are_sent() -> None:
    sending = Sending(lambda guild: WaitEstimate(), is_fair=lambda guild: False)
    async with asyncio.timeout(20):
        await asyncio.gather(*(sending.turn("a") for _ in range(5)))


async def test_our_own_engine_gets_everything_at_once() -> None:
    sending = Sending(lambda guild: WaitEstimate(), is_fair=lambda guild: True)
    tasks = [asyncio.create_task(sending.turn("a")) for _ in range(50)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert all(task.done() for task in tasks)
