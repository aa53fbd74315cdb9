"""The files of one rank: what was written comes back, and nothing that anyone has changed is ever believed."""

import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.kv_store import page_store
from engine.kv_store.catalogue import StoredPage, decode, encode, parents_first
from engine.kv_store.page_store import PageStore
from engine.kv_store.reader import RecordReader
from engine.kv_store.settings import StoreSettings

PAGE_BYTES, PAGE_SIZE, RECORD = 100, 4, 128
KEY = bytes(range(32))


class Images:
    def __init__(self, pages: list[bytes]) -> None:
        self._pages = pages

    def page(self, index: int) -> bytes:
        return self._pages[index]


def open_store(folder: Path, *, key: bytes = KEY, max_bytes: int = 10 * RECORD, rank: int = 0) -> PageStore:
    return PageStore(
        StoreSettings(folder, key, max_bytes), rank=rank, world_size=2, page_bytes=PAGE_BYTES, page_size=PAGE_SIZE,
        fingerprint=b"f" * 32,
    )  # fmt: skip


def page_of(record: int, parent: int = -1, tenant: str = "a") -> StoredPage:
    return StoredPage(record, parent, tenant, (record, 2, 3, 4), 1000.0 + record)


def content(record: int) -> bytes:
    return Random(record).randbytes(PAGE_BYTES)


def fill(folder: Path, records: int = 4) -> None:
    """Records of two tenants, and the stamp of each is 100 more than its number."""
    store = open_store(folder)
    for record in range(records):
        page = page_of(record, record - 1 if record % 2 else -1, "ab"[record // 2 % 2])
        store.put(record, record + 100, Images([b"", content(record)]), 1, page)
    store.commit()
    store.close(10)


def read_all(store: PageStore) -> dict[int, bytes]:
    """All that the store believes to be there."""
    order = sorted(store.stamps.items())
    store.retain(order)
    pages = {record: store.read(record, stamp) for record, stamp in order}
    return {record: page for record, page in pages.items() if page is not None}


def test_pages_come_back_and_are_for_their_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "kv"
    fill(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    raw = b"".join(file.read_bytes() for file in folder.iterdir())
    assert not any(content(record)[:8] in raw for record in range(4))
    (folder / "rank0.pages").chmod(0o644)
    store = open_store(folder)
    assert read_all(store) == {record: content(record) for record in range(4)}
    assert [page.tenant for page in store.pages] == ["a", "a", "b", "b"]
    store.close(10)
    assert stat.S_IMODE((folder / "rank0.pages").stat().st_mode) == 0o600


def test_only_what_was_committed_or_replaces_nothing_is_believed(tmp_path: Path) -> None:
    """A record that was written again, after the last commit before a kill, is not the page that the index names."""
    fill(tmp_path)
    store = open_store(tmp_path)
    store.retain(sorted(store.stamps.items()))
    store.put(1, 500, Images([content(9)]), 0, page_of(1))
    store.put(7, 501, Images([content(7)]), 0, page_of(7))
    while store.backlog:
        time.sleep(0.001)
    copy = tmp_path / "as the kill left it"
    copy.mkdir()
    for file in ("rank0.index", "rank0.pages"):
        (copy / file).write_bytes((tmp_path / file).read_bytes())
    after = open_store(copy)
    assert read_all(after) == {0: content(0), 2: content(2), 3: content(3)}
    after.close(10)
    assert not any((copy / "rank0.pages").read_bytes()[7 * RECORD :]), "what no index names is overwritten"
    store.close(10)


def test_dropped_records_are_overwritten(tmp_path: Path) -> None:
    fill(tmp_path)
    store = open_store(tmp_path)
    store.retain(sorted(store.stamps.items()))
    number = store.commit([1, 2], {0: 5000.0})
    while store.num_done < number:
        time.sleep(0.001)
    raw = (tmp_path / "rank0.pages").read_bytes()
    assert not any(raw[RECORD : 3 * RECORD])
    store.close(10)
    store = open_store(tmp_path)
    assert read_all(store).keys() == {0, 3}
    assert {page.record: page.last_used for page in store.pages} == {0: 5000.0, 3: 1003.0}
    store.close(10)


def test_what_is_not_retained_is_overwritten(tmp_path: Path) -> None:
    fill(tmp_path)
    store = open_store(tmp_path)
    store.retain([(3, 103), (0, 999), (8, 108)])
    assert store.read(3, 103) == content(3)
    assert store.read(0, 100) is None
    store.close(10)
    assert not any((tmp_path / "rank0.pages").read_bytes()[: 3 * RECORD])


def test_a_smaller_limit_cuts_the_file(tmp_path: Path) -> None:
    fill(tmp_path)
    store = open_store(tmp_path, max_bytes=2 * 2 * RECORD)
    assert store.num_records == 2
    assert read_all(store).keys() == {0, 1}
    assert (tmp_path / "rank0.pages").stat().st_size == 2 * RECORD
    store.close(10)


def test_another_engine_leaves_the_folder_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path)
    first, second = open_store(tmp_path), open_store(tmp_path)
    assert "another engine" in capfd.readouterr().err
    assert (second.num_records, second.pages, second.is_open) == (0, [], False)
    second.put(0, 1, Images([content(0)]), 0, page_of(0))
    second.commit([1])
    second.close(10)
    assert read_all(first).keys() == {0, 1, 2, 3}
    first.close(10)


def _other_key(folder: Path) -> bytes:
    return bytes(32)


def _other_rank(folder: Path) -> bytes:
    for name in ("index", "pages"):
        (folder / f"rank0.{name}").replace(folder / f"rank1.{name}")
    return KEY


def _other_format(folder: Path) -> bytes:
    index = folder / "rank0.index"
    index.write_bytes(b"GLKVIDX0" + index.read_bytes()[8:])
    return KEY


def _cut_index(folder: Path) -> bytes:
    index = folder / "rank0.index"
    index.write_bytes(index.read_bytes()[:-1])
    return KEY


def _empty_index(folder: Path) -> bytes:
    (folder / "rank0.index").write_bytes(b"")
    return KEY


def _huge_index(folder: Path) -> bytes:
    os.truncate(folder / "rank0.index", 1 << 40)
    return KEY


def _linked_index(folder: Path) -> bytes:
    (folder / "rank0.index").replace(folder / "elsewhere")
    (folder / "rank0.index").symlink_to(folder / "elsewhere")
    return KEY


HOSTILE: list[Callable[[Path], bytes]] = [
    _other_key, _other_rank, _other_format, _cut_index, _empty_index, _huge_index, _linked_index,
]  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE)
def test_files_that_cannot_be_used_cost_one_line(
    tmp_path: Path, change: Callable[[Path], bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    fill(tmp_path)
    key = change(tmp_path)
    store = open_store(tmp_path, key=key, rank=1 if change is _other_rank else 0)
    assert (store.pages, dict(store.stamps)) == ([], {})
    assert len(capfd.readouterr().err.splitlines()) == 1
    store.close(10)


def test_files_that_cannot_even_be_emptied_are_left_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path)
    (tmp_path / "rank0.index").unlink()
    (tmp_path / "rank0.index").mkdir()
    store = open_store(tmp_path)
    assert (store.is_open, store.num_done, store.num_records) == (False, -1, 0)
    assert "delete its files" in capfd.readouterr().err
    store.close(10)


def test_files_that_cannot_be_opened_are_not_said_to_be_empty(tmp_path: Path) -> None:
    """The pages of an engine before may still be in them."""
    (tmp_path / "rank0.pages").mkdir()
    for folder, num_done in ((tmp_path, -1), (tmp_path / "rank0.pages", 0)):
        store = open_store(folder)
        assert (store.is_open, store.num_done) == (folder != tmp_path, num_done)
        store.close(10)


def test_an_index_that_was_not_finished_is_deleted(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "rank0.index").replace(tmp_path / "rank0.new")
    open_store(tmp_path).close(10)
    assert {file.name for file in tmp_path.iterdir()} == {"rank0.pages"}
    assert not (tmp_path / "rank0.pages").read_bytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["rank0.index", "rank0.pages"]),
    at=st.integers(0, 2000),
    changed=st.binary(min_size=1, max_size=40),
    cut=st.booleans(),
)
def test_changed_bytes_are_never_believed(
    tmp_path_factory: pytest.TempPathFactory, name: str, at: int, changed: bytes, cut: bool
) -> None:
    """Whatever is read is what was written; in the index any change makes all of it useless."""
    folder = tmp_path_factory.mktemp("kv")
    fill(folder)
    before = (folder / name).read_bytes()
    at %= len(before)
    after = before[:at] if cut else before[:at] + changed + before[at + len(changed) :]
    (folder / name).write_bytes(after)
    store = open_store(folder)
    found = read_all(store)
    store.close(10)
    assert all(page == content(record) for record, page in found.items())
    if after == before:
        assert len(found) == 4
    elif name == "rank0.index":
        assert not found
    else:
        same = {number for number in range(4) if same_record(before, after, number)}
        assert set(found) == same


def same_record(before: bytes, after: bytes, number: int) -> bool:
    start, end = number * RECORD, (number + 1) * RECORD
    return before[start:end] == after[start:end]


def test_a_record_in_another_place_is_not_believed(tmp_path: Path) -> None:
    fill(tmp_path)
    pages = tmp_path / "rank0.pages"
    raw = pages.read_bytes()
    pages.write_bytes(raw[RECORD : 2 * RECORD] + raw[:RECORD] + raw[2 * RECORD :])
    store = open_store(tmp_path)
    assert read_all(store).keys() == {2, 3}
    store.close(10)


def test_a_backlog_that_is_too_long_leaves_records_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even what was there before."""
    fill(tmp_path)
    monkeypatch.setattr(page_store, "MAX_BACKLOG", PAGE_BYTES - 1)
    store = open_store(tmp_path)
    store.retain(sorted(store.stamps.items()))
    store.put(1, 600, Images([content(9)]), 0, page_of(1))
    store.commit()
    store.close(10)
    assert not any((tmp_path / "rank0.pages").read_bytes()[RECORD : 2 * RECORD])
    store = open_store(tmp_path)
    assert read_all(store).keys() == {0, 2, 3}
    store.close(10)


def test_the_reader_skips_what_is_not_asked_for() -> None:
    order = [(number, number) for number in range(200)]
    reader = RecordReader(lambda record, stamp: b"%d" % record, order, page_bytes=8 << 20)
    assert reader.take(0, 0) == b"0"
    assert reader.take(150, 150) == b"150"
    assert reader.take(3, 3) is None
    assert reader.take(999, 0) is None
    assert reader.take(151, 151) == b"151"
    reader.close()


def test_a_catalogue_is_read_as_it_was_written() -> None:
    pages = [
        page_of(3, 1, "x" * 300),
        page_of(1, -1, "x" * 300),
        StoredPage(7, -1, "é\ud800", (-1, 0, 2**31 - 1, 5), 0.5),
    ]
    data = encode(pages, PAGE_SIZE)
    assert decode(data, PAGE_SIZE) == pages
    for broken in (b"", data[:-1], data + b"x", data[4:], b"\xff" * len(data)):
        with pytest.raises(ValueError):
            decode(broken, PAGE_SIZE)


def test_parents_come_first_and_strangers_not_at_all() -> None:
    old, new = StoredPage(0, -1, "a", (0,), 10.0), StoredPage(1, 0, "a", (1,), 30.0)
    other = StoredPage(2, -1, "a", (2,), 20.0)
    foreign, orphan = StoredPage(3, 0, "b", (3,), 90.0), StoredPage(4, 77, "a", (4,), 90.0)
    loop = [StoredPage(5, 6, "a", (5,), 90.0), StoredPage(6, 5, "a", (6,), 90.0)]
    assert parents_first([new, orphan, other, *loop, foreign, old]) == [old, new, other]
    assert old.last_used == 30.0
