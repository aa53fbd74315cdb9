"""Detokenizing: complete characters, stop strings across tokens, a cut that does not depend on where tokens end."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from engine.server.detokenizer import IncrementalDetokenizer


class PieceDecoder:
    """Token id = index into `pieces`; bytes that are not a complete character yet are held back."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._pending = b""

    def push(self, token: int) -> str:
        self._pending += self._pieces[token]
        for end in range(len(self._pending), -1, -1):
            try:
                text = self._pending[:end].decode()
            except UnicodeDecodeError:
                continue
            self._pending = self._pending[end:]
            return text
        return ""

    def finish(self) -> str:
        return self._pending.decode(errors="replace")


def run(pieces: Sequence[bytes], stops: Sequence[str]) -> tuple[list[str], IncrementalDetokenizer]:
    """What each `push` and the `finish` return, and the detokenizer after them."""
    detokenizer = IncrementalDetokenizer(PieceDecoder(pieces), stops)
    sent = [detokenizer.push([token]) for token in range(len(pieces))]
    return [*sent, detokenizer.finish()], detokenizer


def test_without_stop_strings_every_character_is_sent_at_once() -> None:
    sent, detokenizer = run(["안".encode()[:2], "안".encode()[2:] + b"!", b" ok"], [])
    assert sent == ["", "안!", " ok", ""]
    assert (detokenizer.stopped, detokenizer.num_tokens) == (False, 3)


def test_a_stop_string_across_tokens_is_never_sent() -> None:
    sent, detokenizer = run([b"Hello", b" EN", b"D", b" and more"], [" END"])
    assert sent == ["Hello", "", "", "", ""]
    assert (detokenizer.stopped, detokenizer.num_tokens) == (True, 3)


def test_the_beginning_of_a_stop_string_is_sent_once_it_is_not_one() -> None:
    sent, detokenizer = run([b"a<", b"|x", b"<|"], ["<|end|>"])
    assert sent == ["a", "<|x", "", "<|"]
    assert not detokenizer.stopped


def test_text_before_the_stop_string_in_the_same_token_is_sent() -> None:
    sent, detokenizer = run([b"one two", b" three"], ["two"])
    assert (sent, detokenizer.num_tokens) == (["one ", "", ""], 1)


def test_a_stop_string_that_ends_in_the_last_bytes() -> None:
    sent, detokenizer = run([b"a", "é".encode()[:1]], ["\ufffd"])
    assert (sent, detokenizer.stopped) == (["a", "", ""], True)


alphabet = st.text("ab\n한", max_size=30)


@given(alphabet, st.lists(st.text("ab\n한", min_size=1, max_size=4), max_size=4), st.data())
def test_the_cut_depends_on_the_text_alone(text: str, stops: list[str], data: st.DataObject) -> None:
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=10)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    sent, detokenizer = run(pieces, stops)
    letters, plain = run([letter.encode() for letter in text], stops)
    assert "".join(sent) == "".join(letters)
    assert detokenizer.stopped == plain.stopped == any(stop in text for stop in stops)
    assert text.startswith("".join(sent))
    assert not any(stop in "".join(sent) for stop in stops)
