"""A small vocabulary for a template's shape, once as the engine's tokenizer and once as transformers'."""

import json
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Library
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from engine.tokenizers.base import Tokenizer
from engine.tokenizers.tokenizer_json import from_tokenizer_json
from tests.engine.chat.template_shapes import SHAPES, source

_TEXT = (
    "You are the owl of the old library. Who speaks? I speak in short words, and I ask what the river is.",
    "system user assistant model hello there the rain in the town was cold, she said: it is not my umbrella",
    "안녕하세요 반갑습니다 고양이 <think> tool call name arguments {\"a\": 1} 2024 26 Jul",
)  # fmt: skip


@cache
def _trained(byte_fallback: bool) -> str:
    """Trained on a few lines, without added tokens."""
    library = Library(BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True) if byte_fallback else BPE())
    if byte_fallback:
        library.normalizer = normalizers.Replace(" ", "▁")
        library.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
        library.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        specials = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
        trainer = BpeTrainer(vocab_size=640, special_tokens=specials, show_progress=False)
    else:
        library.pre_tokenizer = ByteLevel(add_prefix_space=False)
        library.decoder = decoders.ByteLevel()
        trainer = BpeTrainer(vocab_size=500, initial_alphabet=ByteLevel.alphabet(), show_progress=False)
    library.train_from_iterator(_TEXT * 3, trainer)
    content = json.loads(library.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] == "<unk>"]
    return json.dumps(content)


@cache
def vocabulary(name: str) -> tuple[Tokenizer, PreTrainedTokenizerFast]:
    shape = SHAPES[name]
    library = Library.from_str(_trained(shape.byte_fallback))
    if shape.prepends:
        library.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    ends = [token for token in (shape.bos, shape.eos) if token is not None]
    specials = dict.fromkeys((*ends, *shape.controls))
    library.add_special_tokens([AddedToken(token, normalized=False, rstrip=shape.rstrip) for token in specials])
    library.add_tokens([AddedToken(token, normalized=False) for token in shape.texts])
    ours = from_tokenizer_json(
        Path("tokenizer.json"), json.loads(library.to_str()),
        bos=shape.bos, eos=shape.eos, stop_ids=frozenset(), adds_bos=False,
    )  # fmt: skip
    theirs = PreTrainedTokenizerFast(tokenizer_object=library, bos_token=shape.bos, eos_token=shape.eos)
    theirs.chat_template = source(name)
    return ours, theirs
