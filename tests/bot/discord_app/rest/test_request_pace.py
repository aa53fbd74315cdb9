"""Requests keep to Discord's limits, and the urgent ones go first."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from bot.discord_app.rest.request_pace import GLOBAL_LIMIT, Kind, RequestPace, Urgency


async def send(
    pace: RequestPace, kind: Kind, channel: int, urgency: Urgency = Urgency.FINAL, *, seconds: float = 0.0
) -> float:
    """Send a request that takes `seconds`; when it was sent."""
    async with pace.turn(kind, channel, urgency) as turn:
        turn.is_sent = True
        at = asyncio.get_running_loop().time()
        await asyncio.sleep(seconds)
        return at


def most_within(times: Iterable[float], period: float) -> int:
    """The largest number of requests in any period."""
    ordered = sorted(times)
    return max(sum(start <= each < start + period for each in ordered) for start in ordered)


def headers(limit: int, remaining: int, reset_after: float) -> dict[str, str]:
    return {
        "X-RateLimit-Limit": str(limit),
        "X-RateLimit-Remaining": str(remaining),
        "X-RateLimit-Reset-After": f"{reset_after:.3f}",
    }


async def test_a_channel_and_kind_have_a_limit_of_their_own() -> None:
    pace = RequestPace()
    pace.learn("edit", headers(3, 2, 0.5))
    times = await asyncio.gather(*(send(pace, "edit", 1) for _ in range(7)), *(send(pace, "edit", 2) for _ in range(3)))
    assert most_within(times[:7], 0.5) == 3
    assert max(times) - min(times) < 1.5
    assert max(times[7:]) - min(times) < 0.2  # another channel does not wait


async def test_all_requests_together_have_a_limit() -> None:
    pace = RequestPace()
    limit, period = GLOBAL_LIMIT
    times = await asyncio.gather(*(send(pace, "create", channel) for channel in range(limit + 20)))
    assert most_within(times, period) <= limit
    assert max(times) - min(times) < 2 * period


async def test_a_final_text_overtakes_growing_ones_and_finds_room() -> None:
    pace = RequestPace()
    pace.learn("edit", headers(3, 2, 0.5))
    order: list[str] = []

    async def edit(name: str, urgency: Urgency) -> None:
        await send(pace, "edit", 1, urgency)
        order.append(name)

    live = [asyncio.create_task(edit(f"live {number}", Urgency.LIVE)) for number in range(4)]
    await asyncio.sleep(0.1)
    assert order == ["live 0", "live 1"]  # one request is left for what is urgent
    await edit("final", Urgency.FINAL)
    assert order == ["live 0", "live 1", "final"]
    await asyncio.gather(*live)
    assert order[3:] == ["live 2", "live 3"]


async def test_one_request_of_a_channel_waits_for_the_response_to_the_one_before() -> None:
    pace = RequestPace()
    times = await asyncio.gather(*(send(pace, "edit", 1, seconds=0.1) for _ in range(3)))
    assert times[1] - times[0] >= 0.1
    assert times[2] - times[1] >= 0.1


async def test_the_period_counts_from_the_response() -> None:
    pace = RequestPace()
    pace.learn("edit", headers(1, 0, 0.3))
    first = await send(pace, "edit", 1, seconds=0.4)
    assert await send(pace, "edit", 1) - first >= 0.7


async def test_a_turn_that_was_given_up_or_not_used_does_not_count() -> None:
    pace = RequestPace()
    pace.learn("edit", headers(1, 0, 5.0))
    async with pace.turn("edit", 1, Urgency.FINAL):
        waiting = asyncio.create_task(send(pace, "edit", 1))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(1):
        await send(pace, "edit", 1)


async def test_turns_that_are_given_up_hold_up_no_others() -> None:
    pace = RequestPace()
    pace.learn("edit", headers(2, 1, 0.05))
    async with pace.turn("edit", 1, Urgency.FINAL):
        waiting = [asyncio.create_task(send(pace, "edit", 1, urgency)) for urgency in (Urgency.LIVE, Urgency.FINAL)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
    # The turn above has just ended, before those that were given up could notice.
    await asyncio.gather(*waiting, return_exceptions=True)
    async with asyncio.timeout(2):
        await send(pace, "edit", 1)


async def test_typing_leaves_room_for_replies() -> None:
    pace = RequestPace()
    typing = [asyncio.create_task(send(pace, "typing", channel, Urgency.TYPING)) for channel in range(40)]
    await asyncio.sleep(0.05)
    async with asyncio.timeout(0.5):
        await asyncio.gather(*(send(pace, "create", channel, Urgency.FIRST) for channel in range(44)))
    assert sum(task.done() for task in typing) == 4
    for task in typing:
        task.cancel()
    await asyncio.gather(*typing, return_exceptions=True)


async def test_headers_that_make_no_sense_change_nothing() -> None:
    pace = RequestPace()
    for wrong in ({}, {"X-RateLimit-Limit": "x"}, headers(0, 0, 1.0)):
        pace.learn("edit", wrong)
    async with asyncio.timeout(1):
        await asyncio.gather(*(send(pace, "edit", 1) for _ in range(5)))
