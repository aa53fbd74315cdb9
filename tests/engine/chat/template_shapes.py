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


SHAPES: dict[str, Shape] = {
    "llama-3.0": Shape("<|begin_of_text|>", "<|end_of_text|>", mark="<|eot_id|>"),
    "llama-3.1": Shape("<|begin_of_text|>", "<|eot_id|>", mark="<|start_header_id|>"),
    "qwen-2.5": Shape((*_IM, "<|endoftext|>"), None, "<|im_end|>", _TOOL_TEXTS, mark="<|im_end|>"),
    "qwen-3": Shape((*_IM, "<|endoftext|>"), None, "<|im_end|>", (*_TOOL_TEXTS, "<think>", "</think>"), mark="<|im_start|>"
    ),
    "gemma-2": Shape(("<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>", byte_fallback=True, mark="<end_of_turn>"
    ),
    "gemma-3": Shape(("<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>", byte_fallback=True, mark="<start_of_turn>"
    ),
    "phi-3": Shape(("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), "<s>", "<|endoftext|>",
        byte_fallback=True, prepends=True, rstrip=True, mark="<|end|>",
    ),
    "phi-4": Shape((*_IM, "<|im_sep|>"), "<|endoftext|>", "<|im_end|>", mark="<|im_sep|>"),
    "mistral-v1": Shape(_MISTRAL_V1, (), "<s>", "</s>", byte_fallback=True, prepends=True, mark="</s>"),
    "mistral-v3": Shape(
        _MISTRAL_V3, ("[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"), "<s>", "</s>",
        byte_fallback=True, prepends=True, mark="[/INST]",
    ),
    "tekken": Shape(_MISTRAL_V3.replace('"[INST] "', '"[INST]"').replace('" " + message', "message"),
                    ("[INST]", "[/INST]", "[TOOL_CALLS]"), "<s>", "</s>", mark="[INST]"),
    "deepseek-r1": Shape(("<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"), _BEGIN, _END, ("<think>", "</think>"),
        mark="<\uff5cUser\uff5c>",
    ),
    "chatml": Shape((*_IM,), None, "<|im_end|>", mark="<|im_end|>"),
    "zephyr": Shape((), "<s>", "</s>", byte_fallback=True, mark="</s>"),
}  # fmt: skip
