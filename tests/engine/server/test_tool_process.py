"""A call that is asked for, by a real engine: marks that are control tokens are sampled, and the reply ends by itself.

The model is random, so that only the grammar can make it write calls.
"""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest

from tests.engine.chat.template_shapes import SHAPES, source
from tests.engine.checkpoint.builders import Tiny, write_huggingface
from tests.engine.checkpoint.vocabularies import train_byte_level
from tests.engine.server.process import EngineProcess

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {"town": {"enum": ["Bonn", "서울"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["town", "days"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "description": "Rain.", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {"type": "object",
     "properties": {}, "additionalProperties": False}}},
]  # fmt: skip
HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def tekken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    folder = write_huggingface(tmp_path_factory.mktemp("tekken"), Tiny(dim=48, n_heads=3, n_kv_heads=1, ffn_dim=64))
    (folder / "tokenizer.model").unlink()
    shape = SHAPES["tekken"]
    train_byte_level(folder / "tokenizer.json", tuple(dict.fromkeys(("<s>", "</s>", *shape.controls))), size=512)
    config = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": source("tekken")}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with EngineProcess("--model", str(folder), "--port", "0", "--max-seq-len", "2048", log=folder / "log") as engine:
        yield engine.ready()


@pytest.mark.parametrize("stream", [False, True])
def test_control_tokens_begin_calls(tekken: EngineProcess, stream: bool) -> None:
    with openai.OpenAI(base_url=f"{tekken.url}/v1", api_key="none", timeout=60) as client:
        for seed, choice in enumerate(("required", {"type": "function", "function": {"name": "weather"}})):
            asked: Any = {"model": "x", "messages": HELLO, "tools": TOOLS, "tool_choice": choice, "seed": seed}
            asked |= {"parallel_tool_calls": False, "max_tokens": 400, "temperature": 1.0}
            if stream:
                chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**asked, stream=True)]
                calls = [call.function for chunk in chunks for call in chunk.delta.tool_calls or []]
                text, reason = "".join(chunk.delta.content or "" for chunk in chunks), chunks[-1].finish_reason
            else:
                reply = client.chat.completions.create(**asked).choices[0]
                calls = [call.function for call in reply.message.tool_calls or []]
                text, reason = reply.message.content or "", reply.finish_reason
            assert (text, reason) == ("", "tool_calls" if choice == "required" else "stop")
            assert len(calls) == 1
            if calls[0].name == "weather":
                jsonschema.validate(json.loads(calls[0].arguments), WEATHER)
            else:
                assert (choice, calls[0].name, calls[0].arguments) == ("required", "now", "{}")
