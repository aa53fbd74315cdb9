"""What the bot shows of a model that is being loaded is what our engine says, and no words of other servers."""

import httpx2
import pytest

from bot.engine_client.own_engine import load_progress
from engine import load_progress as engine_progress


def health(progress: object, status: int = 503) -> httpx2.Response:
    return httpx2.Response(status, json={"status": "loading", "progress": progress})


def test_percent_of_the_weights_and_the_names_of_the_other_stages() -> None:
    progress = engine_progress.LoadProgress()
    progress.begin(engine_progress.READING, 200).advance(87)
    state = progress.state
    assert state is not None
    assert load_progress(health({"stage": state.stage, "percent": state.percent})) == "43 %"
    for stage in (engine_progress.PREPARING, engine_progress.RECORDING, engine_progress.RESTORING):
        assert load_progress(health({"stage": stage, "percent": None})) == stage
        assert load_progress(health({"stage": stage, "percent": 7})) == stage


@pytest.mark.parametrize(
    "response",
    [
        health({"stage": "reading weights", "percent": 50}, status=200),
        health({"stage": "<@&1> free nitro", "percent": 50}),
        health({"stage": ["reading weights"], "percent": None}),
        health({"stage": "?", "percent": 1 << 60}),
        health("soon"),
        health(None),
        httpx2.Response(503, json=["loading"]),
        httpx2.Response(503, text="<html>"),
    ],
)
def test_anything_else_shows_nothing(response: httpx2.Response) -> None:
    assert load_progress(response) == ""
