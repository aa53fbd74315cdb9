"""A case's files, and what transformers computes of it: all logits of a prompt, and greedy replies."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tests.engine.families.cases import CASES, Case, make_oracle, write_huggingface
from tests.engine.families.gguf_form import write_gguf

REPLY = 64  # tokens


@dataclass(frozen=True)
class Golden:
    """The oracle's answers. Both prompts are longer than every window of the cases."""

    case: Case
    huggingface: Path
    gguf: Path | None
    prompts: list[list[int]]
    logits: np.ndarray  # of the first prompt
    replies: list[list[int]]

    def path(self, form: str) -> Path:
        path = self.huggingface if form == "huggingface" else self.gguf
        assert path is not None
        return path


def make_golden(name: str, folder: Path) -> Golden:
    case = CASES[name]
    oracle = make_oracle(case)
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(3, 512, (length,), generator=generator).tolist() for length in (60, 41)]
    with torch.inference_mode():
        logits = oracle(torch.tensor([prompts[0]])).logits[0].numpy()
        replies = []
        for prompt in prompts:
            done = oracle.generate(
                torch.tensor([prompt]), max_new_tokens=REPLY, do_sample=False, eos_token_id=None, pad_token_id=0
            )
            replies.append(done[0, len(prompt) :].tolist())
    huggingface = write_huggingface(folder / name, oracle)
    gguf = write_gguf(folder / f"{name}.gguf", case, oracle) if case.arch else None
    return Golden(case, huggingface, gguf, prompts, logits, replies)
