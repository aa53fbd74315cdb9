"""Tests for a machine with GPUs, run by `make test-gpu`. Without GPUs they are skipped."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gpu import machine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            needed = 2 if item.path.parent.name == "ranks" else 1
            item.add_marker(pytest.mark.gpu)
            if machine.num_gpus() < needed:
                item.add_marker(pytest.mark.skip(reason=f"needs {needed} GPUs, has {machine.num_gpus()}"))


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """A folder on the disk of TMPDIR, deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix="guildllama-gpu-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
