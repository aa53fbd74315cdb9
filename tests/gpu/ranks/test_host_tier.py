"""The host tier on several GPUs: ranks save and restore their shares of the same pages; replies do not change."""

import json
from concurrent.futures import Future

import pytest

from tests.gpu import machine
from tests.gpu.ranks.groups import FAULT_SIZES, Said


@pytest.mark.parametrize("size", FAULT_SIZES)
def test_ranks_restore_what_one_computes(size: int, host_tier_worlds: dict[int, Future[Said]]) -> None:
    alone, together = host_tier_worlds[1].result(), host_tier_worlds[size].result()
    restored, erased = int(together["restored"]), int(together["erased"])
    equal = json.loads(together["replies"]) == json.loads(alone["replies"])
    machine.report("host tier of several ranks", world_size=size, restored=restored, erased=erased, equal=equal)
    assert equal
    assert alone["restored"] == "0"
    assert restored >= 100
    assert erased >= 40
    assert together["left"] == alone["left"] == "0 0"
