"""Who may wait, and in which order."""

from __future__ import annotations

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
