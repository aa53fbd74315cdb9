"""Text of a reply: whole characters, stop strings across tokens, and a cut that does not depend on how tokens fall."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from engine.server.detokenizer import IncrementalDetokenizer


class Pieces:
    """A decoder over a fixed list of pieces; bytes that are not yet a character are held back."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._pending = b""

    def push(self, token: int) -> str:
        self._pending += self._pieces[token]
        for cut in range(len(self._pending), -1, -1):
            try:
                text = self._pending[:cut].decode()
            except UnicodeDecodeError:
                continue
            self._pending = self._pending[cut:]
            return text
        return ""

    def finish(self) -> str:
        return self._pending.decode(errors="replace")


def run(pieces: Sequence[bytes], stops: Sequence[str]) -> tuple[list[str], IncrementalDetokenizer]:
    text = IncrementalDetokenizer(Pieces(pieces), stops)
    shown = [text.push([token]) for token in range(len(pieces))]
    return [*shown, text.finish()], text


def test_without_stops_every_character_is_shown_at_once() -> None:
    shown, text = run(["안".encode()[:2], "안".encode()[2:] + b"!", b" ok"], [])
    assert shown == ["", "안!", " ok", ""]
    assert (text.stopped, text.tokens) == (False, 3)


def test_a_stop_string_across_tokens_is_never_shown() -> None:
    shown, text = run([b"Hello", b" EN", b"D", b" and more"], [" END"])
    assert shown == ["Hello", "", "", "", ""]
    assert (text.stopped, text.tokens) == (True, 3)


def test_what_only_began_like_a_stop_string_is_shown_later() -> None:
    shown, text = run([b"a<", b"|x", b"<|"], ["<|end|>"])
    assert shown == ["a", "<|x", "", "<|"]
    assert not text.stopped


def test_text_before_the_stop_in_the_same_token_is_kept() -> None:
    shown, text = run([b"one two", b" three"], ["two"])
    assert (shown, text.tokens) == (["one ", "", ""], 1)


def test_a_stop_string_that_ends_in_the_last_bytes() -> None:
    shown, text = run([b"a", "é".encode()[:1]], ["\ufffd"])
    assert (shown, text.stopped) == (["a", "", ""], True)


alphabet = st.text("ab\n한", max_size=30)


@given(alphabet, st.lists(st.text("ab\n한", min_size=1, max_size=4), max_size=4), st.data())
def test_the_cut_depends_on_the_text_alone(whole: str, stops: list[str], data: st.DataObject) -> None:
    raw = whole.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=10)))
    pieces = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    shown, text = run(pieces, stops)
    letters, plain = run([letter.encode() for letter in whole], stops)
    assert "".join(shown) == "".join(letters)
    assert text.stopped == plain.stopped == any(stop in whole for stop in stops)
    assert whole.startswith("".join(shown))
    assert not any(stop in "".join(shown) for stop in stops)
