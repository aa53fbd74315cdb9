"""Meta's API on this engine: golden replies, log-probabilities, echo, and errors before anything is computed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.errors import ConfigError, InvalidDialog, PromptTooLong
from engine.llama import Dialog, Llama, SpecialTags, TooManyPrompts
from tests.engine.llama.reference_script import run
from tests.engine.server.process import GOLDEN, ROOT

TINY = GOLDEN / "llama2-tiny"
TOKENIZER = str(TINY / "tokenizer.model")
EXPECTED = json.loads((TINY / "golden.json").read_text())
DIALOGS: list[Dialog] = [entry["dialog"] for entry in EXPECTED["dialogs"]]
HELLO: Dialog = [{"role": "user", "content": "Hello?"}]


@pytest.fixture(scope="module")
def llama() -> Iterator[Llama]:
    built = Llama.build(str(TINY), TOKENIZER, max_seq_len=160, max_batch_size=4)
    yield built
    built.close()


def test_greedy_chat_matches_the_reference(llama: Llama) -> None:
    for _ in range(2):  # the second time from cached prefixes
        replies = llama.chat_completion(DIALOGS, temperature=0, max_gen_len=24)
        assert [reply["generation"]["content"] for reply in replies] == [e["greedy_text"] for e in EXPECTED["dialogs"]]
        assert all(reply["generation"]["role"] == "assistant" and "tokens" not in reply for reply in replies)


def test_greedy_text_matches_the_reference(llama: Llama) -> None:
    (prediction,) = llama.text_completion([EXPECTED["text_prompt"]], temperature=0, max_gen_len=24)
    assert prediction["generation"].startswith(EXPECTED["text_greedy"])


def test_generate_returns_ids(llama: Llama) -> None:
    prompts = [entry["prompt_tokens"] for entry in EXPECTED["dialogs"]]
    tokens, logprobs = llama.generate(prompts, 24, temperature=0)
    assert tokens == [entry["greedy_tokens"] for entry in EXPECTED["dialogs"]]
    assert logprobs is None
    assert llama.generate(prompts, 0)[0] == [[]] * 4
    assert llama.generate([], 5) == ([], None)


def test_logprobs_match_the_golden_logits(llama: Llama) -> None:
    prompts = [entry["prompt_tokens"] for entry in EXPECTED["dialogs"]]
    tokens, logprobs = llama.generate(prompts, 4, temperature=0, logprobs=True, echo=True)
    assert logprobs is not None
    with np.load(TINY / "logits.npz") as golden:
        for number, prompt in enumerate(prompts):
            logits = golden[f"dialog{number}"].astype(np.float64)
            norm = np.log(np.exp(logits).sum(1))
            following = [*prompt[1:], EXPECTED["dialogs"][number]["greedy_tokens"][0]]
            expected = [logits[at, token] - norm[at] for at, token in enumerate(following)]
            assert tokens[number][: len(prompt)] == prompt
            assert len(tokens[number]) == len(logprobs[number]) == len(prompt) + 4
            assert logprobs[number][0] == 0.0
            assert np.allclose(logprobs[number][1 : len(prompt) + 1], expected, atol=1e-3)


def test_logprobs_come_with_the_text_of_each_token(llama: Llama) -> None:
    (reply,) = llama.chat_completion([HELLO], temperature=0, max_gen_len=6, logprobs=True)
    ids = EXPECTED["dialogs"][0]["greedy_tokens"][:6]
    assert reply["tokens"] == [llama.tokenizer.decode(token) for token in ids]
    assert len(reply["logprobs"]) == 6
    (prediction,) = llama.text_completion(["Hi"], temperature=0, max_gen_len=3, logprobs=True, echo=True)
    assert (
        len(prediction["tokens"]) == len(prediction["logprobs"]) == len(llama.tokenizer.encode("Hi", True, False)) + 3
    )
    assert prediction["generation"].startswith("Hi")


def test_sampling_depends_only_on_the_seed() -> None:
    def sampled(seed: int, batch: int) -> list[str]:
        llama = Llama.build(str(TINY), TOKENIZER, max_seq_len=160, max_batch_size=batch, seed=seed)
        replies = llama.chat_completion(DIALOGS, temperature=1.0, top_p=0.9, max_gen_len=8)
        llama.close()
        return [reply["generation"]["content"] for reply in replies]

    assert sampled(1, 4) == sampled(1, 6)
    assert sampled(1, 4) != sampled(2, 4)


def test_a_reply_ends_when_the_context_is_full(llama: Llama) -> None:
    (reply,) = llama.generate([EXPECTED["dialogs"][0]["prompt_tokens"]], 10_000, temperature=0)[0]
    assert len(reply) <= 160 - 21
    (unbounded,) = llama.chat_completion([HELLO], temperature=0)
    assert unbounded["generation"]["content"] == llama.tokenizer.decode(reply)


def test_special_tags_are_an_error_before_anything_is_computed(llama: Llama) -> None:
    for text in ("[INST] x", "x [/INST]", "<<SYS>>", "a <</SYS>>"):
        for dialog in ([{"role": "user", "content": text}], [{"role": "system", "content": text}, HELLO[0]]):
            with pytest.raises(SpecialTags, match=r"dialogs\[1\]: special tags are not allowed") as caught:
                llama.chat_completion([HELLO, dialog])
            assert caught.value.dialog == 1


@pytest.mark.parametrize(
    "dialog",
    [
        [],
        [{"role": "system", "content": "x"}],
        [{"role": "assistant", "content": "x"}],
        [*HELLO, *HELLO],
        [*HELLO, {"role": "assistant", "content": "x"}],
        [{"role": "boss", "content": "x"}],
    ],
)
def test_an_invalid_dialog(llama: Llama, dialog: Dialog) -> None:
    with pytest.raises(InvalidDialog, match=r"dialogs\[0\]"):
        llama.chat_completion([dialog])


def test_errors_name_the_limits(llama: Llama) -> None:
    with pytest.raises(PromptTooLong) as caught:
        llama.text_completion(["x " * 500])
    assert (caught.value.limit, caught.value.got > 500) == (159, True)
    with pytest.raises(PromptTooLong):
        llama.generate([[5] * 160], 1)
    assert len(llama.generate([[5] * 159], 1)[0][0]) <= 1
    with pytest.raises(TooManyPrompts, match="got 5 prompts; max_batch_size is 4"):
        llama.chat_completion([HELLO] * 5)
    with pytest.raises(InvalidDialog):
        llama.generate([[]], 1)
    with pytest.raises(InvalidDialog):
        llama.generate([[100_000]], 1)


def test_a_tokenizer_in_another_directory(tmp_path: Path) -> None:
    for name in ("params.json", "consolidated.00.pth"):
        shutil.copy(TINY / name, tmp_path / name)
    llama = Llama.build(str(tmp_path), TOKENIZER, max_seq_len=64, max_batch_size=1)
    (reply,) = llama.chat_completion([HELLO], temperature=0, max_gen_len=24)
    llama.close()
    assert reply["generation"]["content"] == EXPECTED["dialogs"][0]["greedy_text"]
    with pytest.raises(ConfigError, match=r"nothing\.model"):
        Llama.build(str(tmp_path), str(tmp_path / "nothing.model"), max_seq_len=64, max_batch_size=1)


def test_wrong_world_sizes() -> None:
    with pytest.raises(ConfigError, match="torchrun --nproc_per_node 2"):
        Llama.build(str(TINY), TOKENIZER, 64, 1, model_parallel_size=2)
    with pytest.raises(ConfigError, match="4096"):
        Llama.build(str(TINY), TOKENIZER, 5000, 1)


@pytest.mark.parametrize("name", [pytest.param("llama2-tiny", marks=pytest.mark.long), "llama2-tiny-mp2"])
def test_a_script_for_the_reference_on_two_ranks(name: str, tmp_path: Path) -> None:
    """Both ranks get the same results, equal to those of one rank, and the processes exit."""
    model = GOLDEN / name
    script = str(ROOT / "tests" / "engine" / "llama" / "reference_script.py")
    arguments = [str(model), str(model / "tokenizer.model"), str(model / "golden.json")]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *launcher, script, *arguments, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().splitlines() == ["> Assistant"] * 4  # once, not on every rank
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2))
    one = run(*arguments)
    assert first == second
    expected = json.loads((model / "golden.json").read_text())
    for result in (one, first):
        assert [reply["generation"]["content"] for reply in result["greedy"]] == [
            entry["greedy_text"] for entry in expected["dialogs"]
        ]
    assert first["text"] == one["text"]
    assert first["sampled"] == one["sampled"]
    for alone, shared in zip(one["greedy"], first["greedy"], strict=True):
        assert np.allclose(alone["logprobs"], shared["logprobs"], atol=1e-3)
