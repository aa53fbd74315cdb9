"""How many requests a server takes at once: stated, shown by its load, learnt from refusals."""

from __future__ import annotations

import pytest

from bot.engine_client.replicas.reported_load import load_in_metrics, load_in_slots
from bot.engine_client.replicas.room import Load, Room


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_without_any_number_there_is_always_room():
    room = Room()
    for _ in range(1000):
        room.begin()
    assert room.has_room
    assert room.limit is None


def test_a_refusal_is_learnt_and_slowly_forgotten():
    clock = Clock()
    room = Room(clock)
    for _ in range(5):
        room.begin()
    room.refused(None)
    room.end()
    assert (room.limit, room.num_in_flight) == (4, 4)
    assert not room.has_room
    clock.now += 2
    room.end(answered=True)
    assert room.has_room
    room.begin()
    assert not room.has_room
    for _ in range(12):  # replies at the limit: one more is tried after about as many
        room.end(answered=True)
        while room.has_room:
            room.begin()
    assert room.limit == 6
    clock.now += 601
    assert room.limit is None


def test_retry_after_is_waited_for_but_not_for_ever():
    clock = Clock()
    room = Room(clock)
    room.begin()
    room.refused(3600.0)
    room.end()
    clock.now += 29
    assert not room.has_room
    clock.now += 2
    assert room.has_room


def test_slots_are_shared_with_other_clients():
    room = Room()
    room.begin()
    room.report(Load(running=3, waiting=0, slots=4))
    assert room.has_room
    room.begin()
    assert not room.has_room
    room.report(None)
    assert room.has_room


def test_while_requests_wait_as_many_run_as_can():
    room = Room()
    for _ in range(8):
        room.begin()
    room.report(Load(running=6, waiting=2))
    assert room.limit == 6
    for _ in range(3):
        room.end(answered=True)
    room.report(Load(running=5, waiting=0))
    assert room.has_room
    room.begin()
    assert not room.has_room
    room.report(Load(running=6, waiting=0))
    assert room.limit is None, "it runs as many as ever, and none waits"


@pytest.mark.parametrize(
    ("text", "load"),
    [
        ("guildllama_engine_running 3.0\nguildllama_engine_waiting 1.0\n", Load(3, 1)),
        ('# TYPE x gauge\nvllm:num_requests_running{engine="0",model_name="m"} 7.0\n'
         'vllm:num_requests_waiting{engine="0",model_name="m"} 2.0\n', Load(7, 2)),
        ('sglang:num_running_reqs{model_name="m"} 4\nsglang:num_queue_reqs{model_name="m"} 0\n', Load(4, 0)),
        ('vllm:num_requests_running{engine="0"} 1.0\nvllm:num_requests_running{engine="1"} 2.0\n', Load(3, 0)),
        ("llamacpp:requests_processing 2\nllamacpp:requests_deferred 5\n", Load(2, 5)),
        ("guildllama_engine_running NaN\n", None),
        ("guildllama_engine_running 1e999\n", None),
        ("guildllama_engine_running -3\n", None),
        ("<html>guildllama_engine_running</html>", None),
        ("", None),
    ],
)  # fmt: skip
def test_metrics_of_servers(text: str, load: Load | None):
    assert load_in_metrics(text) == load


@pytest.mark.parametrize(
    ("text", "load"),
    [
        ('[{"id": 0, "is_processing": true}, {"id": 1, "is_processing": false}]', Load(1, 0, 2)),
        ("[]", None),
        ('{"error": {}}', None),
        ('[{"id": 0}]', None),
        ('[{"is_processing": 5}]', None),
        ("[" * 100_000, None),
        ("nonsense", None),
    ],
)
def test_slots_of_llama_cpp(text: str, load: Load | None):
    assert load_in_slots(text) == load
