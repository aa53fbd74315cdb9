"""Cards that wait for a button: each for its member, in bounded number, size and time."""

from __future__ import annotations

from dataclasses import replace

from bot.cogs.cards.pending import KEPT_FOR, MAX_BYTES, MAX_KEPT, MAX_PER_MEMBER, PendingCard, PendingCards

CARD = PendingCard(
    guild_id=1,
    json='{"name":"Mira","first_mes":"Hi"}',
    char="Mira",
    greetings=("Hi",),
    picture=b"",
    user="Ann",
    name="",
    replace=False,
    text="SECRET",
)


def test_a_card_is_its_members_and_its_guilds() -> None:
    cards = PendingCards()
    cards.keep(10, 1, CARD)
    assert cards.find(10, 1, 1) == CARD
    assert cards.find(11, 1, 1) is cards.find(10, 2, 1) is cards.find(10, 1, 2) is None
    assert CARD.card().name == "Mira"
    assert "SECRET" not in repr(CARD)
    cards.forget(10, 1)
    assert cards.find(10, 1, 1) is None


def test_number_size_and_time_are_bounded() -> None:
    now = 0.0
    cards = PendingCards(lambda: now)
    for number in range(5):
        cards.keep(10, number, CARD)
    assert len(cards) == MAX_PER_MEMBER
    assert cards.find(10, 4, 1)
    for user in range(200):
        cards.keep(user, 1, CARD)
    assert len(cards) == MAX_KEPT
    large = replace(CARD, picture=bytes(MAX_BYTES // 2))
    for user in range(3):
        cards.keep(user, 2, large)
    assert len(cards) <= 2
    cards.keep(1, 3, replace(CARD, picture=bytes(2 * MAX_BYTES)))
    assert len(cards) == 1
    now = KEPT_FOR + 1
    assert cards.find(1, 3, 1) is None
    assert len(cards) == 0
