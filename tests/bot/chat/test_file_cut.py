"""Files that are too long for a prompt lose their end, the longest ones first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bot.attachments.types import FileText
from bot.chat.files.cut import MIN_CHARS, cut_at, cut_files, num_chars, stored
from models.types import StoredFile

FILES = st.lists(st.builds(StoredFile, name=st.just("a"), content=st.text(max_size=2000), note=st.just("")), max_size=4)


@given(FILES, st.integers(0, 5000))
def test_what_is_left_is_the_beginning_and_within_the_limit(files: list[StoredFile], chars: int):
    cut = cut_files(files, chars)
    assert num_chars(cut) <= max(chars, MIN_CHARS * len(files))
    for before, after in zip(files, cut, strict=True):
        assert before.content.startswith(after.content)
        assert bool(cut_at(after)) == (after.content != before.content)
    if num_chars(files) <= chars:
        assert list(cut) == files


def test_a_short_file_stays_whole_beside_a_long_one():
    short, long = cut_files([StoredFile("a", "x" * 300), StoredFile("b", "y" * 9000)], 1300)
    assert (len(short.content), len(long.content)) == (300, 1000)
    assert (short.note, long.note) == ("", "cut after 1,000 characters")


def test_a_cut_is_at_the_end_of_a_line_and_said_once():
    [once] = cut_files([StoredFile("a", "line\n" * 1000, "3 pages")], 2003)
    assert once.content == "line\n" * 399 + "line"
    [twice] = cut_files([once], 500)
    assert twice.note == "3 pages; cut after 499 characters"


def test_what_was_cut_while_it_was_read_is_said():
    assert stored(FileText("a.pdf", "x" * 1234, truncated=True, pages=1)).note == "1 page; cut after 1,234 characters"
    assert stored(FileText("a.txt", "x")).note == ""
