"""The workloads are those of docs/performance.md, by their digests."""

import pytest

from engine.bench import trace


def test_digests() -> None:
    found = [trace.requests_digest(workload) for workload in (trace.w1(), trace.w2(), trace.w4())]
    assert found == ["e05ab776ac5f6397", "f07104c161b2896f", "0833d260b9bca8b1"]
    assert trace.chat_digest(trace.chat()) == "f9e7265e9fc2e6d4"


def test_a_turn_of_the_chat() -> None:
    chat = trace.chat()
    first = chat.prompt(5)
    assert first == chat.personas[1] + chat.messages[5][0]
    assert chat.reply(5, [9] * 100)
    assert chat.prompt(5) == first + [9] * 100 + chat.messages[5][1]
    with pytest.raises(ValueError, match="100"):
        chat.reply(5, [9])


@pytest.mark.parametrize(("step", "kept"), [(1, [10] * 5), (5, [6, 7, 8, 9, 10])])
def test_the_window_rolls(step: int, kept: list[int]) -> None:
    rolling = trace.RollingChat(users=1, turns=40, trim_step=step)
    pairs = []
    for _ in range(25):
        pairs.append((len(rolling.prompt(0)) - 256 - 40) // 140)
        rolling.reply(0, [3] * 100)
    assert pairs[:11] == list(range(11))
    assert pairs[11:16] == kept
    assert max(pairs) == 10


def test_generated_history() -> None:
    plain, longer = trace.CannedChat(users=4), trace.CannedChat(58, users=4)
    for chat in (plain, longer):
        assert chat.reply(1, [9] * 100)
        with pytest.raises(ValueError, match="100"):
            chat.reply(1, [9])
    first, second = plain.prompt(1), longer.prompt(1)
    assert (len(first), len(second)) == (256 + 140 + 40, 256 + 198 + 40)
    assert second[: 256 + 140] == first[: 256 + 140]
