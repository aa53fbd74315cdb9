"""Where the pages are kept, under which key, and how much of them. Data only."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

MAX_AGE: Final = 3600.0  # seconds since a page was used last
KEY_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """`folder` is of this engine alone; `max_bytes` is for the files of all ranks together."""

    folder: Path
    key: bytes = field(repr=False)
    max_bytes: int = 4 << 30
