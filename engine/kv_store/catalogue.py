"""What the stored pages are: whose, after which page, for which token ids, and when they were used last.

Only rank 0 has it, since only rank 0 has the prefix trie. It knows its own encoding and no files.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_COUNTS: Final = struct.Struct("<II")  # tenants, pages
_PAGE: Final = struct.Struct("<Iiid")  # tenant, record, record of the page before it (-1: none), last use


@dataclass(slots=True)
class StoredPage:
    """One full page of a tenant's prompts or replies; `last_used` in seconds since the epoch."""

    record: int
    parent_record: int  # -1: the first page of a prompt
    tenant: str
    token_ids: tuple[int, ...]
    last_used: float


def encode(pages: Iterable[StoredPage], page_size: int) -> bytes:
    """All pages, in any order."""
    listed = list(pages)
    tenants = {tenant: number for number, tenant in enumerate(dict.fromkeys(page.tenant for page in listed))}
    ids = struct.Struct(f"<{page_size}i")
    out = [_COUNTS.pack(len(tenants), len(listed))]
    for tenant in tenants:
        name = tenant.encode("utf-8", "surrogatepass")
        out += (struct.pack("<I", len(name)), name)
    for page in listed:
        out.append(_PAGE.pack(tenants[page.tenant], page.record, page.parent_record, page.last_used))
        out.append(ids.pack(*page.token_ids))
    return b"".join(out)


def decode(data: bytes, page_size: int) -> list[StoredPage]:
    """The inverse of `encode`. Raises ValueError for anything else."""
    try:
        num_tenants, num_pages = _COUNTS.unpack_from(data)
        at, tenants = _COUNTS.size, []
        for _ in range(num_tenants):
            (length,) = struct.unpack_from("<I", data, at)
            at += 4
            tenants.append(data[at : at + length].decode("utf-8", "surrogatepass"))
            at += length
        ids = struct.Struct(f"<{page_size}i")
        if len(data) - at != num_pages * (_PAGE.size + ids.size):
            raise ValueError("a catalogue of another length than it says")
        pages = []
        for _ in range(num_pages):
            tenant, record, parent, last_used = _PAGE.unpack_from(data, at)
            token_ids = ids.unpack_from(data, at + _PAGE.size)
            pages.append(StoredPage(record, parent, tenants[tenant], token_ids, last_used))
            at += _PAGE.size + ids.size
    except (struct.error, IndexError) as error:
        raise ValueError(f"not a catalogue: {error}") from error
    return pages


def parents_first(pages: Iterable[StoredPage]) -> list[StoredPage]:
    """Those whose pages before them are all there and of the same tenant: last used first, each after its parent.

    A page counts as used when a page after it is.
    """
    by_record = {page.record: page for page in pages}
    children: dict[int, list[StoredPage]] = {}
    for page in by_record.values():
        parent = by_record.get(page.parent_record)
        if page.parent_record == -1 or (parent is not None and parent.tenant == page.tenant):
            children.setdefault(page.parent_record, []).append(page)
    ordered = children.pop(-1, [])
    for page in ordered:  # grows
        ordered += children.pop(page.record, ())
    for page in reversed(ordered):
        if page.parent_record != -1:
            parent = by_record[page.parent_record]
            parent.last_used = max(parent.last_used, page.last_used)
    return sorted(ordered, key=lambda page: -page.last_used)  # stable, so parents stay first
