"""Who may wait, and in which order."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from bot.chat.queue.admission import AdmissionControl
from bot.errors import Busy


def test_a_line_is_in_order_of_arrival_and_closes_up() -> None:
    admission = AdmissionControl(8)
    with admission.admit("ann", 1) as first, admission.admit("bob", 2) as second, admission.admit("cid", 3) as third:
        assert third.line() == (1, 2, 3)
        second.release()
        second.release()
        assert second.line() == ()
        assert third.line() == (1, 3)
        assert first.line() == (1,)
    assert third.line() == ()


def test_a_member_has_a_quarter_of_the_slots_and_gets_them_back() -> None:
    admission = AdmissionControl(8)
    with admission.admit("ann", 1) as first, admission.admit("ann", 1):
        with pytest.raises(Busy), admission.admit("ann", 1):
            pass
        with admission.admit("bob", 2):
            pass
        first.release()
        with admission.admit("ann", 1):
            pass


def test_all_slots_together_are_limited() -> None:
    admission = AdmissionControl(1)
    with admission.admit("ann", 1), pytest.raises(Busy), admission.admit("bob", 2):
        pass
    with admission.admit("bob", 2):
        pass


def test_a_guild_may_have_all_slots_and_another_one_still_gets_in() -> None:
    admission = AdmissionControl(8)
    with ExitStack() as stack:

        def take(member: int, guild: str) -> None:
            stack.enter_context(admission.admit((guild, member), member, guild=guild))

        for member in range(8):
            take(member, "flood")
        with pytest.raises(Busy):
            take(8, "flood")
        take(1, "quiet")
        take(1, "other")
        assert len(admission) == 10
        with pytest.raises(Busy):
            take(2, "third")  # what was kept is used up as well
    assert len(admission) == 0


def test_the_kept_slots_are_for_guilds_below_their_share() -> None:
    admission = AdmissionControl(8)
    with ExitStack() as stack:
        for guild, count in (("a", 4), ("b", 4)):
            for member in range(count):
                stack.enter_context(admission.admit((guild, member), member, guild=guild))
        for guild in ("a", "b"):
            with pytest.raises(Busy):
                stack.enter_context(admission.admit((guild, 9), 9, guild=guild))
        stack.enter_context(admission.admit(("c", 1), 1, guild="c"))


def test_the_slots_of_a_member_are_told_in_order() -> None:
    admission = AdmissionControl(16)
    with (
        admission.admit("ann", 1, asked_by=5) as first,
        admission.admit("bob", 2, asked_by=6),
        admission.admit("ann", 3, asked_by=7),
    ):
        assert [slot.asked_by for slot in admission.of("ann")] == [5, 7]
        first.release()
        assert [slot.asked_by for slot in admission.of("ann")] == [7]
