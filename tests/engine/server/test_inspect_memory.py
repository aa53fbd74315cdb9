"""`inspect` on a machine with a GPU says how much of the host's memory idle dialogs would use; no GPU is needed."""

from pathlib import Path

import pytest
import torch

from engine.checkpoint import open_checkpoint
from engine.runner.memory import HOST_MAX_SLOTS
from engine.server import inspect_checkpoint
from engine.server.inspect_checkpoint import make_report, render
from tests.engine.tiny import write_checkpoint


@pytest.mark.parametrize(("free_bytes", "limit"), [(1 << 20, None), (1 << 60, 16 * HOST_MAX_SLOTS)])
def test_the_tokens_of_idle_dialogs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_bytes: int, limit: int | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(inspect_checkpoint, "available_bytes", lambda device: free_bytes)
    found = make_report(open_checkpoint(write_checkpoint(tmp_path)), 2)
    expected = limit or free_bytes // 2 // (2 * found.kv_bytes_per_token_per_rank)
    assert found.host_tier_tokens == expected > 0
    assert f"{expected:,} tokens of idle dialogs fit into half of its free memory" in render(found)
