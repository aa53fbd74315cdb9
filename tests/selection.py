"""Which cases of a long table `make test` runs: each value at least once. `make test-long` runs the others."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import pytest

SQLITE, POSTGRES = (
    pytest.mark.parametrize(
        "database_url", [short, pytest.param(other, marks=pytest.mark.long)], indirect=True, ids=[short, other]
    )
    for short, other in (("sqlite", "postgres"), ("postgres", "sqlite"))
)
"""The database of a test whose rule is the same on both; on the other one it is a long test."""


def diagonal(rows: Iterable[object], columns: Iterable[object]) -> list[object]:
    """All pairs; those off the diagonal are long tests."""
    row_list, column_list = list(rows), list(columns)
    size = max(len(row_list), len(column_list))
    short = {(index % len(row_list), index % len(column_list)) for index in range(size)}
    return [
        pytest.param(row_list[i], column_list[j], marks=[] if (i, j) in short else pytest.mark.long)
        for i, j in product(range(len(row_list)), range(len(column_list)))
    ]
