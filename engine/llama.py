"""Meta's `llama` API on this engine: `from engine.llama import Llama, Dialog` in place of `from llama import …`.

Runs under python or torchrun, on CPU or GPU, with any number of ranks that divides the model's heads. Every rank makes
the same calls, as in scripts for Meta's package, and gets the same results. docs/reference-api.md lists the
differences.
"""

import os
import random
import sys
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypedDict

from engine.chat.chat_format import chat_format
from engine.chat.formats import ChatFormat, special_tags_in, split_dialog
from engine.checkpoint import open_checkpoint
from engine.config import EngineConfig, resolve
from engine.errors import ConfigError, EngineError, InvalidDialog, PromptTooLong
from engine.offline import OfflineEngine
from engine.scheduler.request import SamplingParams
from engine.tokenizers.base import Tokenizer as AnyTokenizer

GROUP_TIMEOUT = 1800.0  # seconds that a rank waits for the others: between two calls a script may do anything

Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    """One message of a dialog."""

    role: Role
    content: str


class CompletionPrediction(TypedDict, total=False):
    """A result of `text_completion`."""

    generation: str
    tokens: list[str]  # only with logprobs
    logprobs: list[float]  # only with logprobs


class ChatPrediction(TypedDict, total=False):
    """A result of `chat_completion`."""

    generation: Message
    tokens: list[str]  # only with logprobs
    logprobs: list[float]  # only with logprobs


Dialog = list[Message]


class TooManyPrompts(EngineError):
    """More prompts in one call than `max_batch_size`."""

    def __init__(self, limit: int, got: int) -> None:
        """Both count prompts."""
        super().__init__(f"one call got {got} prompts; max_batch_size is {limit}")
        self.limit, self.got = limit, got


class SpecialTags(InvalidDialog):
    """A message contains Llama 2's special tags, such as [INST]."""

    def __init__(self, dialog: int, tags: Sequence[str]) -> None:
        """`dialog`: its index in the call; `tags`: those found."""
        super().__init__(f"dialogs[{dialog}]: special tags are not allowed as part of the prompt: {', '.join(tags)}")
        self.dialog, self.tags = dialog, tuple(tags)


class Tokenizer:
    """The tokenizer with the interface of Meta's."""

    def __init__(self, inner: AnyTokenizer) -> None:
        """An id that the vocabulary lacks is -1."""
        self._inner = inner
        self.n_words = inner.vocab_size
        self.bos_id = -1 if inner.bos_id is None else inner.bos_id
        self.eos_id = inner.eos_id
        self.pad_id = -1

    def encode(self, s: str, bos: bool, eos: bool) -> list[int]:
        """The ids of `s`, with the beginning-of-text or end-of-text id if asked for."""
        return [
            *([self.bos_id] if bos and self.bos_id >= 0 else []),
            *self._inner.encode(s),
            *([self.eos_id] if eos else []),
        ]

    def decode(self, t: Sequence[int] | int) -> str:
        """The text of several ids or of one."""
        return self._inner.decode([t] if isinstance(t, int) else t)


class Llama:
    """A loaded model. Make one with `Llama.build`."""

    def __init__(
        self, engine: OfflineEngine, config: EngineConfig, tokenizer: AnyTokenizer, chat: ChatFormat, seed: int
    ) -> None:
        """Use `build`, which makes the arguments."""
        self.tokenizer = Tokenizer(tokenizer)
        self._engine, self._config, self._chat = engine, config, chat
        self._stop_ids = tokenizer.stop_ids
        self._seeds = random.Random(seed)  # noqa: S311 - equal on every rank, no secrets
        self._close = weakref.finalize(self, engine.close)  # also runs when the program ends

    @staticmethod
    def build(
        ckpt_dir: str,
        tokenizer_path: str,
        max_seq_len: int,
        max_batch_size: int,
        model_parallel_size: int | None = None,
        seed: int = 1,
    ) -> "Llama":
        """Load a checkpoint on the ranks that torchrun started, or on one. Raises ConfigError."""
        started = time.monotonic()
        checkpoint = open_checkpoint(ckpt_dir, tokenizer=Path(tokenizer_path))
        config = resolve(checkpoint.spec, max_num_seqs=max_batch_size, max_context=max_seq_len)
        if model_parallel_size not in (None, config.world_size):
            found = f"{config.world_size} ranks; start it with torchrun --nproc_per_node {model_parallel_size}"
            raise ConfigError("model_parallel_size", expected=f"{model_parallel_size} ranks", found=found)
        tokenizer = checkpoint.tokenizer()
        chat = chat_format(checkpoint.spec, tokenizer)
        config = replace(
            config, num_kv_pages=config.max_num_seqs * config.max_pages_per_seq, group_timeout=GROUP_TIMEOUT
        )
        engine = OfflineEngine.load(config, checkpoint)
        if config.rank > 0:
            # As in Meta's package: its scripts print on every rank, and the output should appear once.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the program
        else:
            sys.stderr.write(f"Loaded in {time.monotonic() - started:.2f} seconds\n")
        return Llama(engine, config, tokenizer, chat, seed)

    def generate(
        self,
        prompt_tokens: list[list[int]],
        max_gen_len: int,
        temperature: float = 0.6,
        top_p: float = 0.9,
        logprobs: bool = False,
        echo: bool = False,
    ) -> tuple[list[list[int]], list[list[float]] | None]:
        """The generated ids of each prompt, up to the end-of-text token, and their log-probabilities.

        With `echo` the prompt's ids come first. Raises TooManyPrompts, PromptTooLong, InvalidDialog or EngineError.
        """
        self._check(prompt_tokens, max_gen_len)
        params = SamplingParams(temperature, top_p, max_gen_len, self._stop_ids | self._chat.stop_ids)
        seeds = [self._seeds.getrandbits(64) for _ in prompt_tokens]
        replies = self._engine.generate(prompt_tokens, params, seeds) if max_gen_len else [[] for _ in prompt_tokens]
        starts = [0 if echo else len(prompt) for prompt in prompt_tokens]
        sequences = [[*prompt, *reply] for prompt, reply in zip(prompt_tokens, replies, strict=True)]
        tokens = [ids[start:] for ids, start in zip(sequences, starts, strict=True)]
        if not logprobs:
            return tokens, None
        return tokens, [self._engine.score(ids)[start:] for ids, start in zip(sequences, starts, strict=True)]

    def text_completion(
        self,
        prompts: list[str],
        temperature: float = 0.6,
        top_p: float = 0.9,
        max_gen_len: int | None = None,
        logprobs: bool = False,
        echo: bool = False,
    ) -> list[CompletionPrediction]:
        """The continuation of each prompt; raises what `generate` does."""
        ids = [self.tokenizer.encode(prompt, bos=True, eos=False) for prompt in prompts]
        tokens, scores = self.generate(ids, self._reply_limit(max_gen_len), temperature, top_p, logprobs, echo)
        predictions: list[CompletionPrediction] = [{"generation": self.tokenizer.decode(t)} for t in tokens]
        if scores is not None:
            for prediction, reply, score in zip(predictions, tokens, scores, strict=True):
                prediction.update({"tokens": self._decode_each(reply), "logprobs": score})
        return predictions

    def chat_completion(
        self,
        dialogs: list[Dialog],
        temperature: float = 0.6,
        top_p: float = 0.9,
        max_gen_len: int | None = None,
        logprobs: bool = False,
    ) -> list[ChatPrediction]:
        """The assistant's reply to each dialog; raises what `generate` does, and SpecialTags.

        Nothing is generated unless every dialog is valid.
        """
        ids = [self._encode_dialog(number, dialog) for number, dialog in enumerate(dialogs)]
        tokens, scores = self.generate(ids, self._reply_limit(max_gen_len), temperature, top_p, logprobs)
        predictions: list[ChatPrediction] = [
            {"generation": {"role": "assistant", "content": self.tokenizer.decode(t)}} for t in tokens
        ]
        if scores is not None:
            for prediction, reply, score in zip(predictions, tokens, scores, strict=True):
                prediction.update({"tokens": self._decode_each(reply), "logprobs": score})
        return predictions

    def _decode_each(self, tokens: list[int]) -> list[str]:
        return [self.tokenizer.decode(token) for token in tokens]

    def close(self) -> None:
        """Free the memory and leave the process group. The end of the program does it too."""
        self._close()

    def _reply_limit(self, max_gen_len: int | None) -> int:
        return self._config.max_context - 1 if max_gen_len is None else max_gen_len

    def _encode_dialog(self, number: int, dialog: Dialog) -> list[int]:
        try:
            split_dialog(dialog)  # Meta's package takes no other order, whatever the model's format does
            ids = self._chat.encode(dialog)
        except InvalidDialog as error:
            raise InvalidDialog(f"dialogs[{number}]: {error}") from error
        if tags := special_tags_in(dialog):
            raise SpecialTags(number, tags)
        return ids

    def _check(self, prompts: list[list[int]], max_gen_len: int) -> None:
        """Raise for what Meta's package refuses, or answers with nothing, before anything is computed."""
        if len(prompts) > self._config.max_num_seqs:
            raise TooManyPrompts(self._config.max_num_seqs, len(prompts))
        for prompt in prompts:
            if not prompt:
                raise InvalidDialog("a prompt needs at least one token")
            if len(prompt) >= self._config.max_context:
                raise PromptTooLong(self._config.max_context - 1, len(prompt))
            if not all(0 <= token < self.tokenizer.n_words for token in prompt):
                raise InvalidDialog(f"a prompt holds an id outside the vocabulary of {self.tokenizer.n_words}")
        if max_gen_len < 0:
            raise EngineError(f"max_gen_len must be at least 0, not {max_gen_len}")
