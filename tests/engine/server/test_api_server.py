"""Stall detection and the command line, without a process."""

import pytest

from engine.core.stats import STEP_BOUNDS, EngineStats, Histogram
from engine.server.api_server import STALL_TIMEOUT, StallDetector
from engine.server.args import InspectOptions, ServeOptions, UsageError, parse


def stats(*, steps: int, running: int = 0, waiting: int = 0) -> EngineStats:
    return EngineStats(
        running=running,
        waiting=waiting,
        kv_tokens_used=0,
        kv_tokens_cached=0,
        kv_tokens_total=0,
        kv_host_tokens_used=0,
        kv_host_tokens_total=0,
        prompt_tokens=0,
        prompt_tokens_computed=0,
        prompt_tokens_cached=0,
        kv_tokens_saved=0,
        kv_tokens_restored=0,
        kv_tokens_evicted=0,
        tokens_generated=0,
        preemptions=0,
        steps=steps,
        finished={},
        step_time=Histogram(STEP_BOUNDS),
        queue_time=Histogram(STEP_BOUNDS),
        first_token_time=Histogram(STEP_BOUNDS),
        rank_memory=(0,),
    )


def test_an_engine_without_steps_has_failed_only_if_it_has_requests() -> None:
    detector = StallDetector(0.0)
    assert detector.check(stats(steps=5), STALL_TIMEOUT * 3) is None
    assert detector.check(stats(steps=5, running=1), STALL_TIMEOUT * 4) is None
    assert detector.check(stats(steps=6, running=1), STALL_TIMEOUT * 5) is None
    assert detector.check(stats(steps=6, running=1), STALL_TIMEOUT * 5 + STALL_TIMEOUT / 2) is None
    assert detector.check(stats(steps=6, waiting=1), STALL_TIMEOUT * 6 + 1) == f"no step for {STALL_TIMEOUT:.0f} s"


def test_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_OF_TEST", " secret ")
    options = parse(["--model", "/models/llama-2-7b-chat/", "--api-key-env", "KEY_OF_TEST", "--uds", "/run/e.sock"])
    assert isinstance(options, ServeOptions)
    assert (options.name, options.api_key, str(options.uds)) == ("llama-2-7b-chat", "secret", "/run/e.sock")
    defaults = parse([])
    assert isinstance(defaults, ServeOptions)
    assert (defaults.model, defaults.name, defaults.host, defaults.port) == ("smollm2", "smollm2", "127.0.0.1", 8000)
    assert parse(["inspect", "x", "--world-size", "2", "--json"]) == InspectOptions("x", 2, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--port", "70000"],
        ["--max-batch", "0"],
        ["--max-seq-len", "many"],
        ["--max-body-mib", "-1"],
        ["extra"],
        ["inspect"],
    ],
)
def test_a_wrong_command_line(arguments: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(arguments)
