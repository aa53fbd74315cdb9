"""Which chat format a model was taught, as its chat template or its vocabulary tells."""

import re
from collections.abc import Collection
from pathlib import Path

from engine.checkpoint.spec import Chat
from engine.errors import ConfigError


def chat_family(where: Path, template: str | None, tokens: Collection[str], model_type: str | None = None) -> Chat:
    """`tokens` holds at least the control tokens. Without template and marks, Llama 2's plain-text format serves."""
    if template:
        # A template names the control tokens it writes; it is read for them, never run.
        if "<|im_start|>" in template:
            return "chatml"
        if "<|start_header_id|>" in template:
            return "llama3"
        if "[INST]" in template:
            return "llama2" if "<<SYS>>" in template else "mistral"
        raise ConfigError(where, expected="a chat template of Llama 2, Llama 3, ChatML or Mistral", found="another one")
    if "<|im_start|>" in tokens and "<|im_end|>" in tokens:
        return "chatml"
    if "<|start_header_id|>" in tokens:
        return "llama3"
    if "[INST]" in tokens or model_type == "mistral":
        return "mistral"
    return "llama2"


def default_system(template: str | None) -> str | None:
    """The system text that a ChatML template inserts when a dialog has none."""
    match = re.search(r"<\|im_start\|>system\\?n?\s?(?P<text>[^'\"<{]+?)<\|im_end\|>", template or "")
    return match["text"] if match else None
