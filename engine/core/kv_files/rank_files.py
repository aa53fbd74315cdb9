"""What each rank does with its files of the KV cache, as rank 0 commands it.

It knows the runner, the rank's store and how commands reach the other ranks. It does not know the prefix trie.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from engine.checkpoint import Checkpoint
from engine.config import EngineConfig
from engine.core.kv_files.fingerprint import cache_fingerprint
from engine.core.worker import Worker
from engine.distributed.communicator import Communicator
from engine.distributed.wire import FILES, RankCommand
from engine.kv_store.catalogue import StoredPage
from engine.kv_store.commands import COMMIT, END, POLL, RESTORE, RETAIN, STORE, StoreCommand
from engine.kv_store.page_store import PageStore
from engine.runner.base import AnyRunner

ANSWERED: Final = frozenset({RESTORE, POLL})  # commands after which all ranks gather their answers


class RankFiles:
    """One rank's part."""

    def __init__(self, runner: AnyRunner, store: PageStore) -> None:
        self._runner, self.store = runner, store

    def execute(
        self,
        command: StoreCommand,
        pages: Sequence[StoredPage | None] = (),
        last_used: Mapping[int, float] | None = None,
    ) -> int:
        """Do it; returns the answer to those that are answered. The other arguments are rank 0's.

        RESTORE is answered with a bit for each page that was there, POLL with the number of commits done.
        """
        store, transfers = self.store, command.transfers
        if command.kind == STORE:
            images = self._runner.export_pages([(each.page_id, each.slot) for each in transfers])
            for number, each in enumerate(transfers):
                store.put(each.record, each.stamp, images, number, pages[number] if pages else None)
        elif command.kind == RESTORE:
            return self._restore(command)
        elif command.kind == RETAIN:
            store.retain([(each.record, each.stamp) for each in transfers])
        elif command.kind == END:
            store.finish_reading()
        elif command.kind == COMMIT:
            store.commit(command.dropped, last_used)
        return store.num_done

    def _restore(self, command: StoreCommand) -> int:
        places, images, mask = [], [], 0
        for bit, each in enumerate(command.transfers):
            image = self.store.read(each.record, each.stamp)
            if image is not None:
                places.append((each.page_id, each.slot))
                images.append(image)
                mask |= 1 << bit
        self._runner.import_pages(places, images)
        return mask


class GroupFiles:
    """The files of all ranks, as rank 0 has them."""

    def __init__(self, files: RankFiles, communicator: Communicator) -> None:
        self._files, self._communicator = files, communicator
        self.store = files.store  # rank 0's

    def execute(
        self,
        command: StoreCommand,
        pages: Sequence[StoredPage] = (),
        last_used: Mapping[int, float] | None = None,
    ) -> tuple[int, ...]:
        """Have all ranks do it; returns their answers, if the command is answered."""
        self._communicator.broadcast_command(RankCommand(FILES, files=command))
        answer = self._files.execute(command, pages, last_used)
        return self._communicator.all_gather(answer) if command.kind in ANSWERED else ()

    def num_done(self) -> int:
        """Commits that every rank has done; below 0 if a rank can do none."""
        return min(self.execute(StoreCommand(POLL)))


def open_files(
    config: EngineConfig, checkpoint: Checkpoint, worker: Worker, on_commit: Callable[[], None] = lambda: None
) -> RankFiles | None:
    """This rank's files; None if none were asked for."""
    if config.kv_store is None:
        return None
    fingerprint = cache_fingerprint(config, checkpoint, worker.model, type(worker.runner).__name__)
    store = PageStore(
        config.kv_store,
        rank=config.rank,
        world_size=config.world_size,
        page_bytes=worker.runner.page_bytes,
        page_size=config.page_size,
        fingerprint=fingerprint,
        on_commit=on_commit,
    )
    return RankFiles(worker.runner, store)
