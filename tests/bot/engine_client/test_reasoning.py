"""Thoughts are told apart from the answer, wherever a reply is cut into pieces."""

from __future__ import annotations

import itertools

import pytest

from bot.engine_client.stream.reasoning import ReasoningSplitter, has_mark

HARMONY = (
    "<|channel|>analysis<|message|>The user greets. Use <think>?<|end|><|start|>assistant<|channel|>commentary to=x"
    "<|message|>{}<|call|><|start|>assistant<|channel|>final<|message|>Hello & <b>welcome</b>!<|return|>"
)
CASES: dict[str, tuple[str, str]] = {
    "DeepSeek, Qwen": ("<think>\nHm, 1 < 2.\n</think>\n\nHello there!", "Hello there!"),
    "space before": ("\n <think>hm</think> Hello", "Hello"),
    "large letters": ("<Think>hm</THINK>Hello", "Hello"),
    "empty thoughts": ("<think>\n\n</think>\n\nHello", "Hello"),
    "twice": ("<think>a</think>\n<think>b</think>\nHello", "Hello"),
    "Mistral": ("[THINK]hm [1][/THINK]Hello", "Hello"),
    "Seed": ("<seed:think>hm</seed:think>Hello", "Hello"),
    "Kimi": ("◁think▷hm◁/think▷Hello", "Hello"),
    "OpenThinker": ("<|begin_of_thought|>hm<|end_of_thought|>Hello", "Hello"),
    "Cohere": ("<|START_THINKING|>hm<|END_THINKING|>Hello", "Hello"),
    "harmony": (HARMONY, "Hello & <b>welcome</b>!"),
    "harmony, final only": ("<|channel|>final<|message|>Hello<|return|>", "Hello"),
    "harmony, a header from the prompt's end on": (
        "<|start|>assistant<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Hello",
        "Hello",
    ),
    "a closing mark in the answer": ("<think>hm</think>Say </think> yourself", "Say </think> yourself"),
    "never closed": ("<think>I wonder and wonder", ""),
    "never closed channel": ("<|channel|>analysis<|message|>I wonder", ""),
    "no thoughts": ("Hello <there>, [you] ◁ and <|me|>", "Hello <there>, [you] ◁ and <|me|>"),
    "leading space stays": ("\n  Hello", "\n  Hello"),
    "a mark later on is text": (
        "Write <think> and then </think>, so: <think>",
        "Write <think> and then </think>, so: <think>",
    ),
    "a mark in code": ("The tag `</think>` closes.", "The tag `</think>` closes."),
    "another tag": ("<thinker>Rodin</thinker>", "<thinker>Rodin</thinker>"),
    "half a mark": ("<thin", "<thin"),
    "half a closing mark": ("Hello </thi", "Hello </thi"),
    "a number": ("1 <", "1 <"),
    "only space": (" \n", " \n"),
    "nothing": ("", ""),
}
LONE = "Okay, they greet.\n</think>\n\nHello there!"


def split(pieces: list[str], *, finish_reason: str = "stop", **options: bool) -> tuple[str, int, ReasoningSplitter]:
    """The answer, and how many characters were thought."""
    splitter = ReasoningSplitter(**options)
    answer, thought = "", 0
    for part in (*(splitter.push(piece) for piece in pieces), splitter.end(finish_reason)):
        answer = part.answer if part.retracts else answer + part.answer
        thought += part.thought
    return answer, thought, splitter


def cuts(text: str) -> list[list[str]]:
    """The text in one piece, in two at every place, in single characters, and in pieces of three."""
    in_two = [[text[:at], text[at:]] for at in range(1, len(text))]
    return [
        [text],
        list(text),
        *in_two,
        ["".join(chars) for chars in itertools.zip_longest(*[iter(text)] * 3, fillvalue="")],
    ]


@pytest.mark.parametrize("name", CASES)
def test_every_form_cut_anywhere(name: str):
    text, answer = CASES[name]
    for pieces in cuts(text):
        assert split(pieces)[0] == answer, pieces


def test_a_closing_mark_alone_takes_back_what_came_before():
    for pieces in cuts(LONE):
        answer, thought, splitter = split(pieces)
        assert answer == "Hello there!", pieces
        assert thought > 0
        assert splitter.saw_lone_close


class TestAPromptThatOpensTheThoughts:
    def test_nothing_is_shown_before_they_close(self):
        for pieces in cuts(LONE):
            splitter = ReasoningSplitter(begins_inside=True)
            parts = [*(splitter.push(piece) for piece in pieces), splitter.end("stop")]
            assert "".join(part.answer for part in parts) == "Hello there!"
            assert not any(part.retracts for part in parts)

    @pytest.mark.parametrize(
        "name", [name for name in CASES if name.startswith(("DeepSeek", "Mistral", "harmony", "never"))]
    )
    def test_marks_that_open_are_understood_as_well(self, name: str):
        text, answer = CASES[name]
        for pieces in cuts(text):
            assert split(pieces, begins_inside=True)[0] == answer, pieces

    def test_an_answer_without_thoughts_comes_at_the_end(self):
        for pieces in cuts("Hello <you>!"):
            answer, _, splitter = split(pieces, begins_inside=True)
            assert (answer, splitter.never_closed) == ("Hello <you>!", True)

    def test_thoughts_that_were_cut_off_are_none(self):
        assert split(["Okay, they"], begins_inside=True, finish_reason="length")[0] == ""


class TestMarksThatSomeoneTyped:
    """`quotes_marks`: the prompt has one."""

    def test_a_closing_mark_is_text(self):
        text = "It is written </think>, I believe."
        for pieces in cuts(text):
            assert split(pieces, quotes_marks=True)[0] == text

    def test_thoughts_are_still_none_of_the_answer(self):
        text, answer = CASES["DeepSeek, Qwen"]
        for pieces in cuts(text):
            assert split(pieces, quotes_marks=True)[0] == answer

    def test_an_answer_that_begins_with_the_mark(self):
        text = "<think> is a tag of models that reason."
        for pieces in cuts(text):
            assert split(pieces, quotes_marks=True)[0] == text
            assert split(pieces, quotes_marks=True, finish_reason="length")[0] == ""

    def test_they_are_found(self):
        assert has_mark(["a", "what is <THINK>?"])
        assert has_mark(["</think>"])
        assert not has_mark(["think", "<thinker>"])


def test_a_continued_answer_is_all_answer():
    text = "<think>, said he, </think> and left"
    for pieces in cuts(text):
        assert split(pieces, only_answer=True)[0] == text


def test_blanks_without_end_are_an_answer():
    splitter = ReasoningSplitter()
    assert sum(len(splitter.push(" " * 100).answer) for _ in range(10)) >= 500


def test_a_header_without_end_is_text():
    text = "<|channel|>" + "x" * 500
    assert split([text])[0] == text
