"""What belongs to the chat templates beside this file: the special tokens and the vocabulary of each.

The templates (templates/) have the shapes of published models, in our own words: the same constructs, the same output.

`controls` are special tokens of the vocabulary, `texts` added tokens that are not special. `prepends`: a space goes
before each text between them; `rstrip`: a special token takes the spaces after it.
"""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Shape:
    controls: tuple[str, ...]
    bos: str | None
    eos: str
    texts: tuple[str, ...] = ()
    byte_fallback: bool = False
    prepends: bool = False
    rstrip: bool = False
    mark: str = ""
    """What a member may type to forge a turn."""


_H, _IM = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), ("<|im_start|>", "<|im_end|>")
_TOOL_TEXTS = ("<tool_call>", "</tool_call>")
_BEGIN, _END = "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"


def source(name: str) -> str:
    """The template of a shape."""
    return (Path(__file__).parent / "templates" / f"{name}.jinja").read_text()


_PHI3 = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
_GEMMA = ("<start_of_turn>", "<end_of_turn>")
_MISTRAL = ("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]")
_R1 = ("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>")
_CHANNELS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>")
_QWEN = (*_IM, "<|endoftext|>")

SHAPES: dict[str, Shape] = {
    "llama-3.0": Shape(_H, "<|begin_of_text|>", "<|end_of_text|>", mark="<|eot_id|>"),
    "llama-3.1": Shape(_H, "<|begin_of_text|>", "<|eot_id|>", mark="<|start_header_id|>"),
    "qwen-2.5": Shape(_QWEN, None, "<|im_end|>", _TOOL_TEXTS, mark="<|im_end|>"),
    "qwen-3": Shape(_QWEN, None, "<|im_end|>", (*_TOOL_TEXTS, "<think>", "</think>"), mark="<|im_start|>"),
    "gemma-2": Shape(_GEMMA, "<bos>", "<eos>", byte_fallback=True, mark="<end_of_turn>"),
    "gemma-3": Shape(_GEMMA, "<bos>", "<eos>", byte_fallback=True, mark="<start_of_turn>"),
    "phi-3": Shape(_PHI3, "<s>", "<|endoftext|>", byte_fallback=True, prepends=True, rstrip=True, mark="<|end|>"),
    "phi-4": Shape((*_IM, "<|im_sep|>"), "<|endoftext|>", "<|im_end|>", mark="<|im_sep|>"),
    "mistral-v1": Shape((), "<s>", "</s>", byte_fallback=True, prepends=True, mark="</s>"),
    "mistral-v3": Shape(_MISTRAL, "<s>", "</s>", byte_fallback=True, prepends=True, mark="[/INST]"),
    "tekken": Shape(_MISTRAL, "<s>", "</s>", mark="[INST]"),
    "deepseek-r1": Shape(_R1, _BEGIN, _END, ("<think>", "</think>"), mark="<\uff5cUser\uff5c>"),
    "chatml": Shape(_IM, None, "<|im_end|>", mark="<|im_end|>"),
    "harmony": Shape(_CHANNELS, "<|startoftext|>", "<|return|>", mark="<|message|>"),
    "zephyr": Shape((), "<s>", "</s>", byte_fallback=True, mark="</s>"),
}
