"""One number for all connections of a process."""

from __future__ import annotations

from bot.telemetry.gateway_sessions import GatewaySessions
from bot.telemetry.metrics import REGISTRY


def connected() -> float | None:
    return REGISTRY.get_sample_value("guildllama_bot_gateway_connected")


def test_all_connections_must_have_a_session() -> None:
    sessions = GatewaySessions()
    sessions.opened("shard 0")
    sessions.opened("shard 1")
    assert connected() == 1
    sessions.lost("shard 0")
    sessions.opened("shard 1")
    assert connected() == 0, "one that works does not hide the one that does not"
    sessions.opened("shard 0")
    assert connected() == 1


def test_one_that_is_given_up_does_not_count() -> None:
    sessions = GatewaySessions()
    sessions.opened("shard 0")
    sessions.opened("shard 1")
    sessions.lost("shard 0")
    sessions.given_up("shard 0")
    sessions.lost("shard 0")
    assert connected() == 1
    sessions.given_up("shard 1")
    assert connected() == 0
