"""The KV cache over a restart: dialogs are warm, replies are the same, and nothing else comes out of the files."""

import dataclasses
import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from engine.checkpoint import Checkpoint, open_checkpoint
from engine.config import EngineConfig, resolve
from engine.core.engine_core import EngineCore, EngineDead, SamplingParams
from engine.core.kv_files import cache_files
from engine.kv_store.catalogue import StoredPage, decode
from engine.kv_store.index import open_index
from engine.kv_store.sealing import SALT_BYTES, Sealer
from engine.kv_store.settings import StoreSettings
from engine.runner.torch_runner import TorchRunner
from tests.engine.distributed.world import World
from tests.engine.tiny import VOCAB, write_checkpoint

KEY = bytes(range(32))
GREEDY = SamplingParams(temperature=0.0, max_tokens=10, ignore_eos=True)


def prompt(seed: int, length: int = 80) -> list[int]:
    random = Random(seed)
    return [random.randrange(3, VOCAB) for _ in range(length)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(write_checkpoint(tmp_path_factory.mktemp("model"), dim=32, heads=4, kv_heads=2, layers=1))


def configure(checkpoint: Checkpoint, folder: Path | None, **changes: object) -> EngineConfig:
    config = resolve(checkpoint.spec, device="cpu", max_context=128, max_num_seqs=4, max_prefill_tokens=16, seed=1)
    store = None if folder is None else StoreSettings(folder, KEY)
    return dataclasses.replace(config, **{"kv_store": store, **changes})


def ask(engine: EngineCore, ids: list[int], tenant: str = "") -> tuple[list[int], int]:
    """The reply, and how much of the prompt was in the cache."""
    stream = engine.submit(ids, GREEDY, tenant=tenant)
    return stream.result(30), stream.usage.cached_tokens


def stored(folder: Path, rank: int = 0, world_size: int = 1) -> tuple[list[StoredPage], dict[int, bytes]]:
    """All that the key opens: the catalogue, and the content of every record that was ever sealed and is left."""
    data = (folder / f"rank{rank}.index").read_bytes()
    salt = data[8 : 8 + SALT_BYTES]
    sealer = Sealer(KEY, salt)
    message = sealer.open(data[8 + SALT_BYTES :], data[: 8 + SALT_BYTES] + b"rank %d of %d" % (rank, world_size))
    assert message is not None
    index, _, _ = open_index(data, KEY, fingerprint=message[:32], context=b"rank %d of %d" % (rank, world_size))
    pages = (folder / f"rank{rank}.pages").read_bytes()
    size = 2 * 16 * 2 * 8 * 4 // world_size + 28
    records = {number: pages[at : at + size] for number, at in enumerate(range(0, len(pages), size))}
    return decode(index.catalogue, 16) if index.catalogue else [], {
        number: record for number, record in records.items() if any(record)
    }


@pytest.mark.parametrize("slots", [0, 40])
def test_a_dialog_is_warm_after_a_restart(checkpoint: Checkpoint, tmp_path: Path, slots: int) -> None:
    """With a host tier, pages come back to its slots, and from there as usual."""
    config = configure(checkpoint, tmp_path / "kv", num_host_slots=slots)
    engine = EngineCore.start(configure(checkpoint, None), checkpoint)
    cold = [ask(engine, prompt(seed), tenant) for seed, tenant in ((1, "a"), (2, "a"), (3, "b"))]
    engine.close()
    assert [cached for _, cached in cold] == [0, 0, 0]
    engine = EngineCore.start(config, checkpoint)
    before = [ask(engine, prompt(seed), tenant) for seed, tenant in ((1, "a"), (2, "a"), (3, "b"))]
    engine.close()
    assert before == cold
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "kv").iterdir()} == {0o600}
    engine = EngineCore.start(config, checkpoint)
    after = [ask(engine, prompt(seed), tenant) for seed, tenant in ((1, "a"), (2, "a"), (3, "b"))]
    foreign = ask(engine, prompt(1), "b")
    reloaded = engine.stats().kv_tokens_reloaded
    engine.close()
    assert engine.failure is None
    assert after == [(ids, 64 if slots else 79) for ids, _ in cold]
    assert foreign == (cold[0][0], 0), "a page of another tenant was read"
    assert reloaded == 3 * 80


def test_pages_come_back_as_slots_are_pinned(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any slot is ready, the newest dialogs come back to the device's pages; the others come while it serves."""
    monkeypatch.setattr(cache_files, "RESTORE_SECONDS", 0.05)
    seeds = range(1, 11)
    engine = EngineCore.start(configure(checkpoint, tmp_path), checkpoint)
    cold = [ask(engine, prompt(seed))[0] for seed in seeds]
    engine.close()
    ready = [0]
    monkeypatch.setattr(TorchRunner, "num_ready_slots", property(lambda _: ready[0]))
    config = configure(checkpoint, tmp_path, num_host_slots=90, num_kv_pages=16)
    engine = EngineCore.start(config, checkpoint)
    assert engine.stats().kv_tokens_reloaded == 16 * 16
    for ready[0] in (8, 20, 31, 90):
        wait_until(lambda: engine.stats().kv_host_tokens_used >= min(ready[0], 40) * 16)
        assert ask(engine, prompt(10))[0] == cold[9]
    files = engine._cache_files
    assert files is not None
    wait_until(lambda: not files._restore)
    assert engine.stats().kv_tokens_reloaded == 50 * 16
    warm = [ask(engine, prompt(seed)) for seed in seeds]
    engine.close()
    assert engine.failure is None
    assert [ids for ids, _ in warm] == cold
    assert all(cached >= 64 for _, cached in warm)


def test_an_erased_tenant_is_in_no_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Neither what is stored nor what an earlier engine left, once the erasure is answered."""
    config = configure(checkpoint, tmp_path)
    for _ in range(2):
        engine = EngineCore.start(config, checkpoint)
        for seed, tenant in ((1, "gone"), (2, "stays"), (3, "gone")):
            ask(engine, prompt(seed), tenant)
        wait_until_stored(engine)
        engine.close()
    pages, _ = stored(tmp_path)
    assert {page.tenant for page in pages} == {"gone", "stays"}
    engine = EngineCore.start(config, checkpoint)
    ask(engine, prompt(4), "gone")
    assert engine.erase("gone").result(10) == 16
    pages, records = stored(tmp_path)
    assert {page.tenant for page in pages} == {"stays"}
    assert set(records) == {page.record for page in pages}
    assert len(records) == 5
    engine.close()
    engine = EngineCore.start(config, checkpoint)
    assert ask(engine, prompt(1), "gone")[1] == 0
    assert ask(engine, prompt(2), "stays")[1] == 79
    engine.close()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_until_stored(engine: EngineCore) -> None:
    scheduler = engine._scheduler
    assert scheduler is not None
    wait_until(lambda: scheduler.cache.stored._trie.to_store.peek() is None)


def test_a_killed_engine_loses_only_what_came_last(checkpoint: Checkpoint, tmp_path: Path) -> None:
    prompts, config = [prompt(1), prompt(2)], {"max_context": 128}
    arguments = {"model": str(checkpoint.path), "prompts": prompts, "folder": str(tmp_path), "config": config}
    with World(1, "restart", stays=True, **arguments) as world:
        world.wait_for("{")
        deadline = time.monotonic() + 60
        while not (tmp_path / "rank0.index").exists() or len(stored(tmp_path)[0]) < 10:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        world.signal(0, signal.SIGKILL)
        assert world.codes() == [-signal.SIGKILL]
    with World(1, "restart", **arguments) as world:
        assert world.codes() == [0]
        assert json.loads(world.wait_for("{"))["cached"] == [79, 79]


def test_other_keys_models_and_settings_start_empty(
    checkpoint: Checkpoint, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path_factory.mktemp("other")
    other = open_checkpoint(write_checkpoint(folder, dim=32, heads=4, kv_heads=2, layers=1, seed=2))
    config = configure(checkpoint, tmp_path)
    cases = (
        (other, config, "belongs to another model"),
        (checkpoint, configure(checkpoint, None, kv_store=StoreSettings(tmp_path, bytes(32))), "another key"),
        (checkpoint, configure(checkpoint, tmp_path, page_size=8), "other settings"),
    )
    for model, settings, reason in cases:
        engine = EngineCore.start(config, checkpoint)
        ask(engine, prompt(1))
        engine.close()
        capfd.readouterr()
        engine = EngineCore.start(settings, model)
        lines = [line for line in capfd.readouterr().err.splitlines() if "rank0.index" in line]
        assert len(lines) == 1
        assert reason in lines[0]
        assert ask(engine, prompt(1))[1] == 0
        engine.close()


def test_pages_older_than_an_hour_stay_away(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, now = configure(checkpoint, tmp_path), time.time()
    engine = EngineCore.start(config, checkpoint)
    ask(engine, prompt(1))
    ask(engine, prompt(2))
    engine.close()
    monkeypatch.setattr(cache_files.time, "time", lambda: now + 3000)
    engine = EngineCore.start(config, checkpoint)
    assert ask(engine, prompt(2))[1] == 79
    engine.close()
    monkeypatch.setattr(cache_files.time, "time", lambda: now + 4000)
    engine = EngineCore.start(config, checkpoint)
    assert ask(engine, prompt(1))[1] == 0
    assert ask(engine, prompt(2))[1] == 79
    engine.close()


@pytest.mark.parametrize("restarts", [False, True])
def test_an_idle_engine_keeps_nothing_for_longer_than_an_hour(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarts: bool
) -> None:
    """Neither what it has stored, nor what has been waiting for slots since it started."""
    monkeypatch.setattr(cache_files, "COMMIT_INTERVAL", 0.05)
    monkeypatch.setattr(cache_files, "EXPIRY_INTERVAL", 0.05)
    monkeypatch.setattr(cache_files, "RESTORE_SECONDS", 0.0)
    monkeypatch.setattr(TorchRunner, "num_ready_slots", 2)
    now, config = time.time(), configure(checkpoint, tmp_path)
    engine = EngineCore.start(config, checkpoint)
    ask(engine, prompt(1))
    ask(engine, prompt(2))
    if restarts:
        engine.close()
        engine = EngineCore.start(dataclasses.replace(config, num_host_slots=40), checkpoint)
    wait_until(lambda: (tmp_path / "rank0.index").exists() and len(stored(tmp_path)[0]) == 10)
    monkeypatch.setattr(cache_files.time, "time", lambda: now + 4000)
    wait_until(lambda: stored(tmp_path) == ([], {}))
    files = engine._cache_files
    assert files is not None
    assert files.seconds_until_due() is None
    engine.close()
    assert engine.failure is None


def test_a_small_limit_keeps_what_was_used_last(checkpoint: Checkpoint, tmp_path: Path) -> None:
    record = 2 * 16 * 2 * 8 * 4 + 28
    config = configure(checkpoint, tmp_path, kv_store=StoreSettings(tmp_path, KEY, 6 * record))
    engine = EngineCore.start(config, checkpoint)
    for seed in (1, 2, 3):
        ask(engine, prompt(seed))
    engine.close()
    assert (tmp_path / "rank0.pages").stat().st_size <= 6 * record
    engine = EngineCore.start(config, checkpoint)
    assert ask(engine, prompt(3))[1] == 79
    assert ask(engine, prompt(1))[1] == 0
    engine.close()


def test_a_disk_that_fails_costs_a_line(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from engine.kv_store.files import StoreFiles

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    engine = EngineCore.start(configure(checkpoint, tmp_path), checkpoint)
    ask(engine, prompt(1), "a")
    monkeypatch.setattr(StoreFiles, "write_record", full)
    expected = ask(engine, prompt(2), "a")[0]
    assert engine.erase("a").result(10) >= 5
    assert (tmp_path / "rank0.pages").stat().st_size == 0
    assert not (tmp_path / "rank0.index").exists()
    assert ask(engine, prompt(2), "a")[0] == expected
    engine.close()
    assert engine.failure is None
    assert capfd.readouterr().err.count("No space left on device") == 1


def test_an_erasure_fails_if_the_files_can_neither_be_written_nor_emptied(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.kv_store.files import StoreFiles

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    engine = EngineCore.start(configure(checkpoint, tmp_path), checkpoint)
    ask(engine, prompt(1), "a")
    for name in ("write_record", "write_index", "overwrite_record", "clear"):
        monkeypatch.setattr(StoreFiles, name, broken)
    with pytest.raises(EngineDead, match="neither be written nor deleted"):
        engine.erase("a").result(10)
    assert engine.failure is None
    engine.close()


def test_two_ranks_restore_what_both_have(tmp_path: Path) -> None:
    """The second time a record of rank 1 is damaged: both drop that page and those after it."""
    model, folder = str(write_checkpoint(tmp_path / "model", dim=32, heads=4, kv_heads=2, layers=1)), tmp_path / "kv"
    prompts = [prompt(1, 100), prompt(2, 100)]
    replies = []
    for run in range(3):
        if run == 2:
            pages, _ = stored(folder, 0, 2)
            damaged = next(page for page in pages if list(page.token_ids) == prompts[0][32:48])
            size = 2 * 16 * 1 * 8 * 4 + 28
            with (folder / "rank1.pages").open("r+b") as file:
                file.seek(damaged.record * size + 40)
                file.write(b"damaged")
        with World(2, "restart", model=model, prompts=prompts, folder=str(folder), erases=run == 2) as world:
            assert world.codes() == [0, 0], world.said
            replies.append(json.loads(next(line for line in world.said[0] if line.startswith("{"))))
    assert replies[0]["replies"] == replies[1]["replies"] == replies[2]["replies"]
    assert replies[0]["cached"] == [0, 0]
    assert replies[1]["cached"] == [96, 96]
    assert replies[2]["cached"] == [32, 96]
    for rank in range(2):
        pages, records = stored(folder, rank, 2)
        assert not pages
        assert not records
