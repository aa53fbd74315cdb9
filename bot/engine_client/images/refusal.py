"""Recognises the refusal of a prompt because it has pictures and the model takes only text.

Servers agree on no wording, and some only complain that a content is no string. Knows those of vLLM, SGLang, TGI,
llama.cpp's server, Ollama, LM Studio, OpenRouter, OpenAI, and of servers in Python, Rust and Go. Pure.
"""

from __future__ import annotations

import re

from bot.engine_client.refusals.refusal import Refusal

_ABOUT_PICTURES = re.compile(
    r"""\b(?:image|picture|vision|visual|multi-?modal|mmproj)|image_url
    | only[ ]type[ ]of[ ]a[ ]part | content[ ](?:part|type|block)s?\b
    | content\W.{0,60}(?:\bstr\b|string|text)
    | (?:unmarshal|invalid[ ]type|expected).{0,40}(?:array|sequence|list|string)""",
    re.IGNORECASE | re.VERBOSE,
)
_ABOUT_THIS_PICTURE = re.compile(
    r"""(?:too|so)[ ](?:large|big|small|many) | \bsize\b | dimension | resolution | pixel | decod | corrupt | download
    | fetch | at[ ]most[ ][1-9] | (?:could|can)[ ]?not[ ](?:process|read|load|open|parse) | invalid[ ]image | base64
    | unsupported[ ]image[ ](?:format|type)""",
    re.IGNORECASE | re.VERBOSE,
)
_NO_PICTURES = re.compile(r"at most 0|(?:not|n't) support\w* (?:image|vision|multi)|mmproj", re.IGNORECASE)


def refuses_images(refusal: Refusal) -> bool:
    """Whether this refusal of a prompt with pictures says that the model sees none at all."""
    about = " ".join([refusal.text, *refusal.params])
    if _NO_PICTURES.search(about):
        return True
    return bool(_ABOUT_PICTURES.search(about)) and not _ABOUT_THIS_PICTURE.search(about)
