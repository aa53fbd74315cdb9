"""GUILDLLAMA_SHARDS as operators write it."""

from __future__ import annotations

import pytest

from bot.errors import ConfigError
from bot.settings import load_settings
from bot.settings.shard_plan import ShardPlan, parse_shards

POSTGRES = "postgresql://me@host/x"


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ("0-3/16", ShardPlan(16, (0, 1, 2, 3))),
        (" 15/16 ", ShardPlan(16, (15,))),
        ("0/1", ShardPlan(1, (0,))),
        ("AUTO/16", ShardPlan(16, None)),
    ],
)
def test_what_it_means(text: str, plan: ShardPlan):
    assert parse_shards(text) == plan


@pytest.mark.parametrize("text", ["16", "3-1/4", "0-4/4", "4/4", "auto", "auto/0", "-1/4", "0-/4", "0,1/4", "0/99999"])
def test_what_cannot_be_meant(text: str):
    with pytest.raises(ConfigError, match="GUILDLLAMA_SHARDS: must") as raised:
        load_settings(shards=text)
    assert "\n" not in raised.value.line


def test_what_does_not_go_together():
    with pytest.raises(ConfigError, match="GUILDLLAMA_SHARDS: with auto needs Postgres"):
        load_settings(shards="auto/4")
    with pytest.raises(ConfigError, match="GUILDLLAMA_SHARDS: takes the place of"):
        load_settings(shards="0/4", shard_id=0, shard_count=4)
    assert load_settings(shards="0/4").shard_plan == ShardPlan(4, (0,))
    assert load_settings(shards="auto/4", database_url=POSTGRES).shard_plan == ShardPlan(4, None)
    assert load_settings().shard_plan is None
