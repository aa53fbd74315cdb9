"""Which chat format a model was trained on, derived from its chat template or its vocabulary."""

import re
from collections.abc import Collection, Mapping

from engine.checkpoint.spec import ChatFamily

# Tokens that end a reply in a chat family, whichever of them a file names as the end of text.
STOP_NAMES: Mapping[ChatFamily, tuple[str, ...]] = {
    "llama2": (),
    "mistral": (),
    "other": (),  # found by rendering the template
    "chatml": ("<|im_end|>", "<|endoftext|>"),
    "llama3": ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
}


def chat_family(template: str | None, vocabulary: Collection[str], model_type: str | None = None) -> ChatFamily:
    """The family of `template` if there is one, else the family whose control tokens are in `vocabulary`.

    `vocabulary` holds at least the control tokens. Llama 2's format is plain text, so it is the default. "other": only
    the template knows the format.
    """
    if template:
        # The template is only searched here for the control tokens that it writes.
        if "<|im_start|>" in template:
            return "chatml"
        if "<|start_header_id|>" in template:
            return "llama3"
        if "[INST]" in template:
            return "llama2" if "<<SYS>>" in template else "mistral"
        return "other"
    if "<|im_start|>" in vocabulary and "<|im_end|>" in vocabulary:
        return "chatml"
    if "<|start_header_id|>" in vocabulary:
        return "llama3"
    if "[INST]" in vocabulary or model_type == "mistral":
        return "mistral"
    return "llama2"


def default_system(template: str | None) -> str | None:
    """The system message that a ChatML template inserts when a dialog has none."""
    match = re.search(r"<\|im_start\|>system\\?n?\s?(?P<text>[^'\"<{]+?)<\|im_end\|>", template or "")
    return match["text"] if match else None
