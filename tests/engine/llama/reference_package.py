"""Meta's `llama` package behind the calls of `engine.llama`, for comparison.

Optional: `pip install -e '.[reference]'`. It needs a CUDA GPU per rank and as many ranks as the checkpoint has shards.
PyPI's package of that name is an unrelated program, so a successful import proves nothing.
"""

import importlib
from types import ModuleType

from engine.errors import ConfigError
from engine.llama import ChatPrediction, CompletionPrediction, Dialog


def package() -> ModuleType | None:
    """Meta's package; None if `llama` is missing or the unrelated program."""
    try:
        module = importlib.import_module("llama")
    except Exception:  # the unrelated program fails to import on this Python
        return None
    return module if hasattr(module, "Llama") else None


class Reference:
    """Meta's `Llama`."""

    def __init__(
        self,
        ckpt_dir: str,
        tokenizer_path: str,
        max_seq_len: int,
        max_batch_size: int,
        model_parallel_size: int | None = None,
        seed: int = 1,
    ) -> None:
        module = package()
        if module is None:
            raise ConfigError("llama", expected="Meta's package", found="none, or another program of that name")
        self._llama = module.Llama.build(
            ckpt_dir, tokenizer_path, max_seq_len, max_batch_size, model_parallel_size, seed
        )

    def chat_completion(
        self, dialogs: list[Dialog], temperature: float = 0.6, top_p: float = 0.9, max_gen_len: int | None = None
    ) -> list[ChatPrediction]:
        result: list[ChatPrediction] = self._llama.chat_completion(dialogs, temperature, top_p, max_gen_len)
        return result

    def text_completion(
        self, prompts: list[str], temperature: float = 0.6, top_p: float = 0.9, max_gen_len: int | None = None
    ) -> list[CompletionPrediction]:
        result: list[CompletionPrediction] = self._llama.text_completion(prompts, temperature, top_p, max_gen_len)
        return result
