"""What the fake engine rejects, in the words of the servers that it stands for."""

from __future__ import annotations

import base64
import re
from typing import Any

from aiohttp import web

from tests.fakes.engine.script import pictures, text_of, words

OPTIONAL = {
    "continue_final_message",
    "add_generation_prompt",
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "seed",
    "n",
    "stream",
    "user",
}
OPTIONAL |= {"stream_options", "cache_salt", "frequency_penalty", "presence_penalty", "response_format"}


def invalid_request(
    body: dict[str, Any],
    *,
    models: list[str] | None,
    refused_fields: frozenset[str],
    context: int,
    overflow: str,
    refuses_images: bool,
) -> web.Response | None:
    """The error for a chat completion that a real server would reject; None for a valid one.

    `models` None: any name is accepted. `overflow` names the server whose wording a prompt that is too long gets.
    """
    if models is not None and body.get("model") not in models:
        return error_response(404, f"The model `{body.get('model')}` does not exist.", code="model_not_found")
    unknown = (set(body) - OPTIONAL - {"model", "messages"}) | (set(body) & refused_fields)
    if unknown:
        name = sorted(unknown)[0]
        return error_response(400, f"Unrecognized request argument supplied: {name}", param=name)
    if (wrong := _wrong_part(body["messages"], refuses_images)) is not None:
        return wrong
    if (wrong := _wrong_messages(body["messages"], continues=body.get("continue_final_message") is True)) is not None:
        return error_response(400, wrong, param="messages")
    if not 0 <= body.get("temperature", 1) <= 2 or not 0 < body.get("top_p", 1) <= 1:
        return error_response(400, "temperature or top_p out of range", param="temperature")
    max_tokens = body.get("max_tokens", body.get("max_completion_tokens", 0))
    if not isinstance(max_tokens, int) or max_tokens < 0:
        return error_response(400, "max_tokens must be a positive integer", param="max_tokens")
    prompt_tokens = words(body["messages"])
    if prompt_tokens + max_tokens > context:
        return _overflow(overflow, context, prompt_tokens, max_tokens)
    return None


def _wrong_part(messages: list[dict[str, Any]], refuses_images: bool) -> web.Response | None:
    for number, message in enumerate(messages):
        for index, part in enumerate(message["content"] if isinstance(message["content"], list) else ()):
            name = f"messages[{number}].content[{index}]"
            if part.get("type") == "image_url":
                if refuses_images:  # in the words of our own engine
                    text = f"'{name}.type' is not supported: the only type of a part is 'text'."
                    return error_response(400, text, code="unsupported_parameter", param=f"{name}.type")
                if not _is_picture(part):
                    return error_response(400, f"{name} is no picture as a data URL", param=name)
            elif set(part) != {"type", "text"} or part["type"] != "text" or not isinstance(part["text"], str):
                return error_response(400, f"{name} is neither text nor picture", param=name)
    return None


def _is_picture(part: dict[str, Any]) -> bool:
    url = part.get("image_url", {}).get("url")
    found = re.fullmatch(r"data:image/(png|jpeg);base64,([A-Za-z0-9+/]+={0,2})", url if isinstance(url, str) else "")
    if found is None:
        return False
    return base64.b64decode(found[2], validate=True).startswith({"png": b"\x89PNG", "jpeg": b"\xff\xd8"}[found[1]])


def _wrong_messages(messages: list[dict[str, Any]], *, continues: bool) -> str | None:
    """`continues`: the last message is the assistant's, and the reply goes on with it."""
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    last = "assistant" if continues else "user"
    if not turns or turns[-1] != last or any(role != ("user", "assistant")[i % 2] for i, role in enumerate(turns)):
        return f"roles must alternate user/assistant and end with {last}, got {roles}"
    if any(not text_of(message) and not pictures([message]) for message in messages):
        return "every message needs content"
    if any(pictures([message]) and message["role"] != "user" for message in messages):
        return "only a user's message may have pictures"
    if any(re.search("[\x00\ud800-\udfff]", text_of(message)) for message in messages):
        return "a message is not valid Unicode text"
    return None


def _overflow(style: str, limit: int, prompt: int, reply: int) -> web.Response:
    if style == "llama.cpp":
        text = "the request exceeds the available context size, try increasing it"
        error = {"code": 400, "message": text, "type": "exceed_context_size_error"}
        return web.json_response({"error": {**error, "n_prompt_tokens": prompt, "n_ctx": limit}}, status=400)
    text = (
        f"This model's maximum context length is {limit} tokens. However, you requested {prompt + reply} tokens "
        f"({prompt} in the messages, {reply} in the completion). Please reduce the length of the messages."
    )
    if style == "vllm":  # an older spelling: flat, and without a code
        flat = {"object": "error", "message": text, "type": "BadRequestError", "param": None, "code": 400}
        return web.json_response(flat, status=400)
    return error_response(400, text, code="context_length_exceeded", param="messages")


def error_response(status: int, message: str, *, code: str | None = None, param: str | None = None) -> web.Response:
    """An error as OpenAI spells it."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return web.json_response({"error": error}, status=status)
