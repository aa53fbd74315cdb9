"""`python -m engine.bench W10`: replies with drafts and without, in turn; what repeats and what does not.

Each reply is asked for after its prompt is in the cache, so that what is measured is decoding. One engine answers in
both ways in turn: of two engines in one process the second was 5 % faster. So other programs on the machine slow both
ways. The processor's time is what can be compared where they do; wall time is printed beside it.
"""

import dataclasses
import statistics
import time
from collections.abc import Iterator
from typing import Final, Literal

import torch

from engine.bench.cpu import machine
from engine.chat.chat_format import choose_format
from engine.chat.formats import Message
from engine.checkpoint import open_checkpoint
from engine.config import EngineConfig, resolve
from engine.core.engine_core import EngineCore, SamplingParams
from engine.scheduler.drafts.limits import NO_DRAFTS
from engine.tokenizers.piecewise import PiecewiseEncoder

_STORY: Final = (
    "The harbour master counts the boats each morning: the Alma, the Bertha and the Clara lie at the north pier, the "
    "Dora and the Emma at the south pier. She writes their names into the green book, notes the tide beside them, and "
    "closes the window against the wind. At noon the ferry brings letters, bread and two barrels of lamp oil."
)
_LIST: Final = "\n".join(f"- {name}: lies at pier {number}, leaves on Monday" for number, name in enumerate(
    ("Alma", "Bertha", "Clara", "Dora", "Emma", "Frieda", "Greta", "Hilda"), 1
))  # fmt: skip
_CODE: Final = (
    "def total(prices, tax):\n    result = 0\n    for price in prices:\n        result += price\n"
    "    return result * (1 + tax)\n"
)


Role = Literal["system", "user", "assistant"]


def _asked(text: str) -> tuple[tuple[Role, str], ...]:
    return (("user", text),)


DIALOGS: Final[dict[str, tuple[tuple[Role, str], ...]]] = {
    "quote": _asked(f"Repeat this text word for word:\n\n{_STORY}"),
    "list": _asked(f"Here is a list of boats. Repeat it and continue it with more boats in the same form:\n{_LIST}"),
    "regenerate": (
        ("user", "Describe a harbour in the morning."),
        ("assistant", _STORY),
        ("user", "Please write exactly that again."),
    ),
    "code": _asked(f"Rename `prices` to `items` in this code and show all of it:\n\n```python\n{_CODE}```"),
    "prose": _asked("Tell me a story about a lighthouse keeper who finds a letter in a bottle."),
    "advice": _asked("I moved to a new city and know nobody. How do I find friends?"),
    "facts": _asked("Why is the sky blue during the day and red in the evening?"),
    "poem": _asked("Write a poem about autumn leaves and old bicycles."),
}
REPLY_TOKENS: Final = 160
TOGETHER: Final = 8  # users that ask for some of the dialogs at the same time
DIALOGS_TOGETHER: Final = ("quote", "code", "prose")
SAMPLINGS: Final = {"greedy": SamplingParams(temperature=0.0), "sampled": SamplingParams(temperature=0.6, top_p=0.9)}


def lines(model: str, quantize: str, runs: int, device: str = "cpu") -> Iterator[dict[str, object]]:
    """One line for each dialog, by one user and, on a CPU, by eight at the same time."""
    checkpoint = open_checkpoint(model)
    chat = choose_format(checkpoint.spec, PiecewiseEncoder(checkpoint.tokenizer())).format
    prompts = {
        name: chat.encode([Message(role=role, content=text) for role, text in dialog])
        for name, dialog in DIALOGS.items()
    }
    rows = None if device == "cpu" else 1
    config = resolve(
        checkpoint.spec, device=device, quantize=quantize, max_context=2048, max_num_seqs=rows, seed=1
    )  # fmt: skip
    engine = SwitchedEngine.start(dataclasses.replace(config, speculate="ngram"), checkpoint)
    try:
        for users in (1, TOGETHER) if rows is None else (1,):
            for name in DIALOGS if users == 1 else DIALOGS_TOGETHER:
                for sampling, params in SAMPLINGS.items():
                    params = dataclasses.replace(params, max_tokens=REPLY_TOKENS, stop_token_ids=chat.stop_ids)
                    yield {
                        "engine": "guildllama", "workload": f"W10.{name}-{users}", "sampling": sampling,
                        **_compare(engine, prompts[name], params, users, runs), "model": model,
                        "quantize": config.quantize, "threads": config.num_threads, **machine(),
                        **({} if rows is None else {"device": torch.cuda.get_device_name()}),
                    }  # fmt: skip
    finally:
        engine.close()


class SwitchedEngine(EngineCore):
    """An engine that drafts only when it is told to."""

    def __init__(self, config: EngineConfig, vocab_size: int) -> None:
        super().__init__(config, vocab_size)
        self._limits = NO_DRAFTS  # those of the runner, once they have been changed

    def switch(self, mode: str) -> None:
        """Call it while no request runs."""
        if self._scheduler is not None:
            drafter = self._scheduler.drafter
            self._limits = drafter.limits if drafter.limits.max_drafts else self._limits
            drafter.limits = self._limits if mode == "ngram" else NO_DRAFTS


def _compare(
    engine: SwitchedEngine, prompt: list[int], params: SamplingParams, users: int, runs: int
) -> dict[str, object]:
    """The medians of both modes, and of the quotients of the runs next to each other."""
    cpu: dict[str, list[float]] = {"off": [], "ngram": []}
    wall: dict[str, list[float]] = {"off": [], "ngram": []}
    replies: dict[str, list[list[int]]] = {}
    before = engine.stats()
    for run in range(runs + 1):  # the first one computes the prompt
        for mode in ("off", "ngram") if run % 2 else ("ngram", "off"):
            engine.switch(mode)
            cpu_start, start = time.process_time(), time.perf_counter()
            asked = [dataclasses.replace(params, seed=user) for user in range(users)]
            streams = [
                engine.submit(prompt, each, client=str(user), tenant=f"{user}") for user, each in enumerate(asked)
            ]
            replies[mode] = [stream.result() for stream in streams]
            if run:
                cpu[mode].append(time.process_time() - cpu_start)
                wall[mode].append(time.perf_counter() - start)
    after = engine.stats()
    tokens = sum(map(len, replies["off"]))
    return {
        "reply_tokens": tokens,
        "ids_equal": replies["off"] == replies["ngram"],
        "cpu_s_off": round(statistics.median(cpu["off"]), 3),
        "cpu_s": round(statistics.median(cpu["ngram"]), 3),
        "gain": round(_median_quotient(cpu), 3),
        "gain_wall": round(_median_quotient(wall), 3),
        "tok_per_cpu_s": round(tokens / statistics.median(cpu["ngram"]), 1),
        "drafted": (after.drafted_tokens - before.drafted_tokens) // (runs + 1),
        "accepted": (after.accepted_tokens - before.accepted_tokens) // (runs + 1),
    }


def _median_quotient(seconds: dict[str, list[float]]) -> float:
    return statistics.median(off / on for off, on in zip(seconds["off"], seconds["ngram"], strict=True))
