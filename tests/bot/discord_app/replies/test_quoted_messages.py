"""The messages of open forms: bounded in number and time, and each for one member in one channel."""

from __future__ import annotations

from bot.discord_app.replies.quoted_messages import KEPT_FOR, MAX_KEPT, MAX_PER_MEMBER, QuotedMessage, QuotedMessages


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def message(number: int, channel: int = 1) -> QuotedMessage:
    return QuotedMessage(number, channel, "Bob", 5, f"text {number}")


def test_it_is_found_by_the_same_member_in_the_same_channel_only() -> None:
    kept = QuotedMessages()
    kept.keep(7, message(1))
    assert kept.find(7, 1, 1) == message(1)
    assert kept.find(7, 1, 1) == message(1)  # a second form for the same message
    assert kept.find(8, 1, 1) is None
    assert kept.find(7, 1, 2) is None
    assert kept.find(7, 2, 1) is None


def test_it_is_forgotten_after_a_while_and_once_it_is_deleted() -> None:
    clock = Clock()
    kept = QuotedMessages(clock)
    kept.keep(7, message(1))
    clock.now += KEPT_FOR - 1
    kept.keep(7, message(2))
    kept.keep(8, message(2))
    assert kept.find(7, 1, 1) is not None
    clock.now += 2
    assert kept.find(7, 1, 1) is None
    assert len(kept) == 2
    kept.forget(2)
    assert len(kept) == 0


def test_using_the_menu_again_begins_anew() -> None:
    clock = Clock()
    kept = QuotedMessages(clock)
    kept.keep(7, message(1))
    kept.keep(7, message(2))
    clock.now += KEPT_FOR - 1
    kept.keep(7, message(1))
    clock.now += 2
    assert kept.find(7, 1, 1) is not None
    assert kept.find(7, 2, 1) is None


def test_no_one_drives_out_the_messages_of_others() -> None:
    kept = QuotedMessages()
    kept.keep(7, message(1))
    for number in range(2, 2000):
        kept.keep(8, message(number))
    assert kept.find(7, 1, 1) is not None
    assert len(kept) == 1 + MAX_PER_MEMBER
    assert [number for number in range(2, 2000) if kept.find(8, number, 1)] == [1995, 1996, 1997, 1998, 1999]
    for user in range(100, 100 + MAX_KEPT):
        kept.keep(user, message(1))
    assert len(kept) == MAX_KEPT
    assert kept.find(7, 1, 1) is None


def test_its_words_reach_no_log() -> None:
    assert "text 1" not in repr(message(1))
    assert "Bob" not in repr(message(1))
