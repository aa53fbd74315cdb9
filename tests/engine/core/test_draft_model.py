"""A second model drafts: replies stay the same, whatever it says, and nothing of them stays in its pages."""

import dataclasses
import shutil
import time
from pathlib import Path

import pytest

from engine.checkpoint import Checkpoint, open_checkpoint
from engine.config import EngineConfig, resolve
from engine.core.draft_model import RunnerDraftModel
from engine.core.draft_vocabulary import check_draft_model, difference
from engine.core.engine_core import EngineCore, SamplingParams
from engine.errors import ConfigError
from engine.runner.torch_runner import TorchRunner
from engine.scheduler.drafts.model_drafter import ModelDrafter
from tests.engine.core.test_drafts import MAX_CONTEXT, PAGES, PARAMS, PROMPTS, ask
from tests.engine.tiny import write_checkpoint


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model, and one that says something else."""
    folder = tmp_path_factory.mktemp("models")
    return {
        name: write_checkpoint(
            folder / name, dim=32, heads=4, kv_heads=2, layers=layers, multiple_of=32, cycle=12, seed=seed
        )
        for name, layers, seed in (("main", 2, 1), ("other", 1, 2))
    }


def config(checkpoint: Checkpoint, speculate: str, **changes: object) -> EngineConfig:
    made = resolve(
        checkpoint.spec, device="cpu", quantize="none", max_context=MAX_CONTEXT, max_num_seqs=4, max_prefill_tokens=24,
        speculate=speculate, seed=1,
    )  # fmt: skip
    return dataclasses.replace(made, native=False, num_kv_pages=PAGES, **changes)


def start(models: dict[str, Path], speculate: str) -> EngineCore:
    checkpoint = open_checkpoint(models["main"])
    engine = EngineCore.start(config(checkpoint, speculate), checkpoint)
    if speculate != "off":
        scheduler = engine._scheduler
        assert scheduler is not None
        assert isinstance(scheduler.drafter, ModelDrafter)
        scheduler.drafter._model_cost = 0.05  # whatever this machine did at the same time
    return engine


def parts(engine: EngineCore) -> tuple[RunnerDraftModel, TorchRunner]:
    scheduler = engine._scheduler
    assert scheduler is not None
    assert isinstance(scheduler.drafter, ModelDrafter)
    model = scheduler.drafter._model
    assert isinstance(model, RunnerDraftModel)
    assert isinstance(model._runner, TorchRunner)
    return model, model._runner


def wait_until_free(model: RunnerDraftModel) -> None:
    """The engine thread frees rows when it next looks for a step."""
    deadline = time.monotonic() + 10
    while len(model._free_pages) < model._runner.num_kv_pages and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(model._free_pages) == list(range(model._runner.num_kv_pages))
    assert not model._rows


def test_replies_are_the_same_with_a_draft_model(models: dict[str, Path]) -> None:
    replies = {}
    accepted = {}
    for name, speculate in (("off", "off"), ("itself", str(models["main"])), ("other", str(models["other"]))):
        engine = start(models, speculate)
        replies[name] = [reply.token_ids for stop in (False, True) for reply in ask(engine, stop=stop, together=False)]
        ask(engine)  # at the same time
        stats = engine.stats()
        accepted[name] = stats.accepted_tokens / max(1, stats.drafted_tokens)
        assert bool(stats.drafted_tokens) == (name != "off")
        engine.close()
        assert engine.failure is None
    assert replies["itself"] == replies["off"]
    assert replies["other"] == replies["off"]
    assert accepted["itself"] > 0.95  # greedy and sampled
    assert accepted["other"] < accepted["itself"]


def test_nothing_stays_in_its_pages(models: dict[str, Path]) -> None:
    engine = start(models, str(models["main"]))
    model, runner = parts(engine)
    runner.kv.pages.zero_()
    streams = [engine.submit(prompt, params) for prompt, params in zip(PROMPTS, PARAMS, strict=True)]
    for stream in streams[1:]:
        stream.cancel()
    streams[0].result(60)
    engine.erase("").result(60)
    assert engine.stats().drafted_tokens
    wait_until_free(model)
    assert not runner.kv.pages.any()
    engine.close()


def test_a_context_that_it_cannot_hold_is_not_drafted(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """It has pages for one context only, and this model's context is longer than its own."""
    monkeypatch.setattr("engine.core.worker.DRAFT_MEMORY_SHARE", 0)
    engine = start(models, str(models["other"]))
    model, _ = parts(engine)
    assert len(model._free_pages) == MAX_CONTEXT // 16
    model._config = dataclasses.replace(model._config, max_context=70)
    params = SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True)
    streams = [engine.submit(prompt, params, client=str(at)) for at, prompt in enumerate(PROMPTS)]
    assert [len(stream.result(60)) for stream in streams] == [60] * len(PROMPTS)
    wait_until_free(model)
    engine.close()
    assert engine.failure is None


def test_attack_another_vocabulary_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    main = open_checkpoint(models["main"])
    check_draft_model(models["other"], main)
    assert difference(main.tokenizer(), main.tokenizer()) is None
    with pytest.raises(ConfigError, match=r"--speculate: expected ngram, off, or a smaller model .* token \d+ is"):
        check_draft_model(Path("smollm2"), main)
    with pytest.raises(ConfigError, match=r"^--speculate: expected auto, ngram, off, or a draft model; found .*ngrm"):
        check_draft_model(Path("ngrm"), main)


def test_several_ranks_have_no_draft_model(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"^--speculate: expected auto, ngram, off on several ranks"):
        config(open_checkpoint(models["main"]), "other")


def test_a_draft_model_that_is_gone_names_the_flag(models: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "draft"
    shutil.copytree(models["other"], copy)
    checkpoint = open_checkpoint(models["main"])
    wanted = config(checkpoint, str(copy))
    shutil.rmtree(copy)
    with pytest.raises(ConfigError, match=r"^--speculate: "):
        EngineCore.start(wanted, checkpoint)
