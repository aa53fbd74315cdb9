"""What every rank does with its files, as plain data. Rank 0 decides it, and all ranks do it in the same order."""

from dataclasses import dataclass
from typing import Final

STORE: Final = 0  # copy pages to the files
RESTORE: Final = 1  # copy them back; every rank answers which of them it had
RETAIN: Final = 2  # keep only these, which will be restored in this order
COMMIT: Final = 3  # drop records, and make durable what has been stored since the last commit
POLL: Final = 4  # every rank answers how many commits are done
END: Final = 5  # nothing more is restored

MAX_TRANSFERS: Final = 48  # of one RESTORE: the answer is one number, with a bit for each


@dataclass(frozen=True, slots=True)
class PageTransfer:
    """Record `record` of the file, as written under `stamp`, and the page or else the slot in memory (-1: none)."""

    record: int
    stamp: int  # below 2⁶⁴, another one for each time that a record is written
    page_id: int = -1
    slot: int = -1


@dataclass(frozen=True, slots=True)
class StoreCommand:
    """`dropped`: records whose content must not be found in the file any more; COMMIT only."""

    kind: int
    transfers: tuple[PageTransfer, ...] = ()
    dropped: tuple[int, ...] = ()
