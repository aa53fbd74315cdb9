"""Which entries of a lorebook belong to a message."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from bot.characters.lore.decorators import split_decorators
from bot.characters.lore.entry import read_lorebook
from bot.characters.lore.key_index import KeyIndex
from bot.characters.lore.matching import LoreContext
from bot.characters.lore.scan import LoreScanner
from bot.characters.macros import Macros


def entry(*keys: str, content: str = "", **fields: Any) -> dict[str, Any]:
    return {"keys": list(keys), "content": content or " ".join(keys) or "always", **fields}


def chosen(
    book: dict[str, Any], *messages: str, num_replies: int = 0, greeting: int = 0, max_tokens: int = 1000
) -> list[str]:
    scanner = LoreScanner(read_lorebook({"extensions": {}, **book}))
    context = LoreContext(messages, num_replies, greeting, Macros("Mira", "Ann"), len, max_tokens)
    return [lore.text for lore in scanner.select(context)]


def one(spec: dict[str, Any], *messages: str, **options: Any) -> bool:
    return bool(chosen({"entries": [spec]}, *messages, **options))


@pytest.mark.parametrize(
    ("spec", "message", "expected"),
    [
        (entry("dragon"), "A DRAGON!", True),
        (entry("dragon"), "a drag on", False),
        (entry("용"), "그 용은 어디에 있나요?", True),
        (entry("한국어"), "\u1112\u1161\u11ab국어", True),  # the same in another Unicode form
        (entry("STRASSE"), "straße", True),
        (entry("Dragon", case_sensitive=True), "a dragon", False),
        (entry("Dragon", case_sensitive=True), "a Dragon", True),
        (entry("cat"), "education", True),
        (entry("cat", extensions={"match_whole_words": True}), "education", False),
        (entry("cat", extensions={"match_whole_words": True}), "my cat.", True),
        (entry("{{char}}"), "hello mira", True),
        (entry("{{user}}"), "hello mira", False),
        (entry("a", "b"), "only b", True),
        (entry("", "  "), "anything", False),
        (entry(), "anything", False),
        (entry(constant=True), "anything", True),
        (entry("a", enabled=False, constant=True), "a", False),
        (entry("a", content=" "), "a", False),
        (entry("a", selective=True, secondary_keys=["b"]), "a", False),
        (entry("a", selective=True, secondary_keys=["b", "c"]), "a c", True),
        (entry("a", selective=True, secondary_keys="b, c"), "a c", True),
        (entry("a", selective=False, secondary_keys=["b"]), "a", True),
        (entry("a", secondary_keys=["b"]), "a", True),
        (entry("a", selective=True, secondary_keys=[]), "a", True),
        (entry(r"/dra(gon|ke)s?\b/i", use_regex=True), "Two DRAKES", True),
        (entry(r"dra(gon|ke)s?\b", use_regex=True), "Two DRAKES", True),
        (entry(r"dra(gon|ke)s?\b", use_regex=True, case_sensitive=True), "Two DRAKES", False),
        (entry(r"(", use_regex=True), "(", False),
        (entry(r"(?=a)", use_regex=True), "a", False),
        (entry(r"용(이|은)", use_regex=True), "그 용은", True),
        (entry("b", use_regex=True, constant=True), "a", False),  # the text of version 3 says so
        (entry("a", content="@@dont_activate\nx"), "a", False),
        (entry("z", content="@@activate\n@@dont_activate\nx"), "a", True),
        (entry("a", content="@@additional_keys b,c\n@@additional_keys d\nx"), "a c", False),
        (entry("a", content="@@additional_keys b,c\n@@additional_keys d\nx"), "a c d", True),
        (entry("a", content="@@exclude_keys b\nx"), "a b", False),
    ],
)  # fmt: skip
def test_an_entry_and_a_message(spec: dict[str, Any], message: str, expected: bool) -> None:
    assert one(spec, message) is expected


def test_only_the_newest_messages_are_searched() -> None:
    messages = ["dragon", "b", "c", "d", "e"]
    assert not one(entry("dragon"), *messages)
    assert one(entry("dragon"), *messages[:4])
    for depth, expected in ((1, False), (4, False), (5, True), (99, True), (0, False), (-1, False)):
        assert bool(chosen({"scan_depth": depth, "entries": [entry("dragon")]}, *messages)) is expected
    assert chosen({"scan_depth": 0, "entries": [entry("dragon")]}, *messages[:4])  # as if it said nothing
    assert not one(entry("e", content="@@scan_depth 0\nx"), *messages)
    assert one(entry("dragon", content="@@scan_depth 5\nx"), *messages)
    assert one(entry("dragon", extensions={"scan_depth": 5}), *messages)


def test_conditions_on_the_conversation() -> None:
    after, every = entry("a", content="@@activate_only_after 2\nx"), entry("a", content="@@activate_only_every 3\nx")
    assert [one(after, "a", num_replies=count) for count in range(4)] == [False, False, True, True]
    assert [one(every, "a", num_replies=count) for count in range(5)] == [True, False, False, True, False]
    assert one(entry(constant=True, content="@@is_greeting 1\nx"), "a", greeting=1)
    assert not one(entry(constant=True, content="@@is_greeting 1\nx"), "a", greeting=0)
    keep, once = (
        entry("a", content="@@keep_activate_after_match\nx"),
        entry("a", content="@@dont_activate_after_match\nx"),
    )
    long_ago = ["a", *"bcdefgh"]
    assert one(keep, *long_ago)
    assert one(once, "b", "a")
    assert not one(once, "a", "a")


def test_the_order_is_that_of_insertion_and_the_budget_drops_the_lowest_priority() -> None:
    entries = [
        entry("k", content="third", insertion_order=3, priority=1),
        entry("k", content="first", insertion_order=1, priority=3),
        entry("k", content="second", insertion_order=2, priority=2),
        entry("k", content="also second", insertion_order=2, priority=9),
    ]
    assert chosen({"entries": entries}, "k") == ["first", "second", "also second", "third"]
    assert chosen({"entries": entries, "token_budget": 16}, "k") == ["first", "also second"]
    assert chosen({"entries": entries, "token_budget": 1_000_000}, "k", max_tokens=11) == ["also second"]
    assert chosen({"entries": entries, "token_budget": 0}, "k") == ["first", "second", "also second", "third"]
    by_order = [entry("k", content="low", insertion_order=1), entry("k", content="high", insertion_order=2)]
    assert chosen({"entries": by_order, "token_budget": 5}, "k") == ["high"]
    first_to_go = entry("k", content="@@ignore_on_max_context\nabc", insertion_order=9, priority=99)
    assert chosen({"entries": [*by_order, first_to_go], "token_budget": 8}, "k") == ["low", "high"]
    too_large = entry("k", content="x" * 100, insertion_order=9, priority=99)
    assert chosen({"entries": [*by_order, too_large], "token_budget": 8}, "k") == ["low", "high"]


def test_entries_bring_others_only_if_the_card_says_so() -> None:
    entries = [
        entry("a", content="b {{// c}} {{hidden_key:d}} {{comment: e}}"),
        *(entry(key, content=f"found {key}") for key in "bcde"),
        entry("found b", content="xyz"),
        entry("b", content="kept out", extensions={"exclude_recursion": True}),
    ]
    assert chosen({"entries": entries}, "a") == ["b"]
    assert chosen({"entries": entries, "recursive_scanning": False}, "a") == ["b"]
    assert chosen({"entries": entries, "recursive_scanning": True}, "a") == [
        "b", "found b", "found d", "xyz",
    ]  # fmt: skip
    loop = [entry("a", content="b"), entry("b", content="a")]
    assert chosen({"entries": loop, "recursive_scanning": True}, "a") == ["b", "a"]


def test_the_examples_of_the_specification() -> None:
    first, content = split_decorators(
        "@@risu_only_decorator 4\n@@@activate_after 4\n@@depth 5\n@@@instruct_depth 5\n\nText\n@@depth 9"
    )
    assert (first.only_after, first.depth, first.ignored, content) == (4, 5, (), "Text\n@@depth 9")
    second, _ = split_decorators("@@risu_only_decorator 4\n@@@agn_only_decorator 4\n@@@activate_every 4\nText")
    assert (second.only_every, second.ignored) == (4, ())
    third, _ = split_decorators("@@depth 5\n@@ignore_on_max_context\n\nPrompt text here")
    assert (third.depth, third.ignore_on_max_context) == (5, True)
    fourth, _ = split_decorators("@@depth 1\n@@depth 2\n@@depth x\n@@role system\n@@position nowhere\nText")
    assert (fourth.depth, fourth.position, fourth.ignored) == (1, None, ("depth", "role", "position"))
    assert split_decorators("@@depth 2")[1] == ""
    assert split_decorators("Mail me @@ home")[1] == "Mail me @@ home"


def test_where_an_entry_stands() -> None:
    fields = [
        entry("a", position="before_char"),
        entry("a", position="after_char"),
        entry("a", position="elsewhere"),
        entry("a", position="before_char", content="@@position after_desc\n@@depth 4\nx"),
        entry("a", position="before_char", content="@@depth 4\nx"),
        entry("a", position="after_char", extensions={"position": 4, "depth": 3}),
    ]
    book = read_lorebook({"entries": fields})
    assert [(each.position, each.depth) for each in book.entries] == [
        ("before_char", None), ("after_char", None), (None, None), ("after_desc", None), (None, 4), (None, 3),
    ]  # fmt: skip


def test_ten_thousand_entries_take_less_than_50_ms_a_message() -> None:
    words = random.Random(1)
    syllables = ["ka", "mo", "ri", "tel", "an", "dor", "ve", "shi", "lun", "gra", "용", "한국", "the ", "of "]

    def word() -> str:
        return "".join(words.choices(syllables, k=words.randint(2, 5)))

    book = {"entries": [entry(word(), word(), word(), insertion_order=n) for n in range(10_000)]}
    messages = [" ".join(word() for _ in range(400)) for _ in range(4)]
    scanner = LoreScanner(read_lorebook(book))
    context = LoreContext(messages, 0, 0, Macros("Mira", "Ann"), lambda text: len(text) // 4)
    best = 1.0
    for _ in range(5):
        started = time.process_time()
        found = scanner.select(context)
        best = min(best, time.process_time() - started)
    assert found
    assert best < 0.05


@pytest.mark.parametrize(
    "entries",
    [
        [entry("a" * 200 + str(number)) for number in range(10_000)],
        [entry("a") for _ in range(10_000)],
        [entry(constant=True) for _ in range(10_000)],
        [entry("(a+)+$", use_regex=True) for _ in range(10_000)],
        [entry(rf"(.{{0,40}}x){{5}}{number}", use_regex=True) for number in range(10_000)],
        [entry("a", content="@@depth 1\n" * 1000 + "x") for _ in range(1000)],
        [entry("a", content="a {{char}}" * 100) for _ in range(10_000)],
    ],
    ids=["alike", "all", "constant", "patterns", "large patterns", "decorators", "long"],
)
def test_a_hostile_lorebook_costs_a_bounded_time(entries: list[dict[str, Any]]) -> None:
    scanner = LoreScanner(read_lorebook({"entries": entries, "recursive_scanning": True}))
    context = LoreContext(["a" * 20_000 + "!"] * 4, 0, 0, Macros("Mira", "Ann"), len)
    started = time.process_time()
    scanner.select(context)
    assert time.process_time() - started < 1


def test_the_index_finds_what_looking_for_each_key_finds() -> None:
    letters = random.Random(2)
    for _ in range(200):
        keys = {"".join(letters.choices("abc", k=letters.randint(1, 8))) for _ in range(30)}
        text = "".join(letters.choices("abcd", k=letters.randint(0, 60)))
        assert KeyIndex(keys).present(text) == {key for key in keys if key in text}
