"""Bodies as clients send them, recorded or rebuilt: SillyTavern's dialogs and fields, and those of agent libraries."""

import asyncio
import json
from typing import Any, cast

import jsonschema
import pytest

from engine.core.engine_core import EngineCore
from engine.server.loaded_model import LoadedModel
from engine.tokenizers.piecewise import PiecewiseEncoder
from tests.engine.chat.template_shapes import source
from tests.engine.chat.test_template_ids import form
from tests.engine.chat.vocabulary import vocabulary
from tests.engine.server.conftest import Served
from tests.engine.server.generation.test_tool_choice import follow
from tests.engine.server.test_templates import CHAT, load

TEMPLATES = ("qwen-3", "llama-3.1", "gemma-2", "gemma-3", "mistral-v1", "mistral-v3", "tekken", "phi-3", "chatml")


def said(role: str, content: str | None, **fields: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **fields}


MAIN = said("system", "Write Aria's next reply in a fictional chat between Aria and Ben.")
OWL, START = said("system", "Aria is an owl."), said("system", "[Start a new Chat]")
GREETING, ASKED = said("assistant", "Hello there."), said("user", "Who speaks?")
DIALOGS: dict[str, list[dict[str, Any]]] = {
    "greeting": [MAIN, OWL, START, GREETING, ASKED],
    "instruction last": [MAIN, OWL, START, GREETING, ASKED, said("system", "[Stay in character.]")],
    "examples": [
        MAIN, said("system", "[Example Chat]"), said("system", "ping", name="example_user"),
        said("system", "pong", name="example_assistant"), START, GREETING, ASKED,
    ],
    "continue": [MAIN, ASKED, said("assistant", "It is I, the"), said("system", "[Continue your last message.]")],
    "prefill": [MAIN, GREETING, ASKED, said("assistant", "Aria:")],
    "impersonate": [MAIN, START, GREETING, said("system", "[Write your next reply as Ben.]")],
    "group": [
        MAIN, said("assistant", "Hello", name="Aria"), said("assistant", "Hi", name="Bo"),
        said("user", "one", name="Ben"), said("user", "two", name="Cy"), said("system", "[Write only as Bo.]"),
    ],
    "empty": [MAIN, said("system", ""), START, said("assistant", ""), said("user", ""), ASKED],
}  # fmt: skip
SILLY_TAVERN = {
    "model": "x", "temperature": 1, "frequency_penalty": 0, "presence_penalty": 0, "top_p": 1, "max_tokens": 300,
    "stream": False, "logit_bias": {}, "stop": ["\nBen:"], "user": None, "seed": 7, "n": 1,
    "chat_completion_source": "custom", "user_name": "Ben", "char_name": "Aria", "group_names": [],
    "include_reasoning": True, "reasoning_effort": None, "enable_web_search": False, "request_images": False,
    "custom_prompt_post_processing": "", "proxy_password": "", "top_k": 0, "min_p": 0, "repetition_penalty": 1,
}  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
async def test_dialogs_of_role_play(loading: Served, name: str) -> None:
    """Nothing that was said is lost, and the prompt ends where the assistant's reply begins."""
    tokenizer = vocabulary(name)[0]
    template, engine = form(name), cast("EngineCore", loading.engine)
    loading.service.set_ready(LoadedModel(engine, tokenizer, PiecewiseEncoder(tokenizer), template, 4000))
    for kind, messages in DIALOGS.items():
        loading.engine.replies.append(b"")
        answer = await loading.http.post(CHAT, json={**SILLY_TAVERN, "messages": messages})
        assert answer.status_code == 200, (kind, answer.text)
        prompt = tokenizer.decode(list(loading.engine.submitted[-1].prompt))
        lost = [message["content"] for message in messages if message["content"].strip() not in prompt]
        assert not lost, (kind, prompt)
        last = list(loading.engine.submitted[-1].prompt)[-1]
        assert last not in template.stop_ids, (kind, prompt)
        assert prompt.rstrip().endswith("Aria:") == (kind == "prefill"), (kind, prompt)


TEXT_COMPLETION = {
    "prompt": "Aria: Hello there.\nBen: Who speaks?\nAria:", "model": "x", "max_new_tokens": None, "max_tokens": 40,
    "temperature": 1, "top_p": 1, "typical_p": 1, "typical": 1, "sampler_seed": -1, "min_p": 0, "repetition_penalty": 1,
    "frequency_penalty": 0, "presence_penalty": 0, "top_k": 0, "skew": 0, "min_tokens": 0, "add_bos_token": True,
    "smoothing_factor": 0, "smoothing_curve": 1, "dry_allowed_length": 2, "dry_multiplier": 0, "dry_base": 1.75,
    "dry_sequence_breakers": "[\"\\n\"]", "dry_penalty_last_n": 0, "max_tokens_second": 0, "stopping_strings": [],
    "stop": ["\nBen:"], "truncation_length": 8192, "ban_eos_token": False, "skip_special_tokens": True, "top_a": 0,
    "tfs": 1, "mirostat_mode": 0, "mirostat_tau": 5, "mirostat_eta": 0.1, "custom_token_bans": "", "banned_strings": [],
    "api_type": "vllm", "api_server": "http://127.0.0.1:8000", "xtc_threshold": 0.1, "xtc_probability": 0, "nsigma": 0,
    "guidance_scale": 1, "negative_prompt": "", "grammar_string": "", "json_schema": None,
    "repetition_penalty_range": 0, "ignore_eos": False,
    "spaces_between_special_tokens": True, "speculative_ngram": False, "stream": False,
    "include_reasoning": True, "n": 1, "best_of": 1, "length_penalty": 1, "early_stopping": False, "logprobs": None,
}  # fmt: skip


async def test_fields_of_role_play_that_are_off(served: Served) -> None:
    served.engine.replies.append(b" I speak.")
    answer = await served.http.post("/v1/completions", json=TEXT_COMPLETION)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["text"] == " I speak."


TOWN: dict[str, Any] = {
    "type": "object", "additionalProperties": False, "required": ["name", "big"],
    "properties": {"name": {"description": "of the town", "enum": ["Bonn"], "title": "Name"},
                   "big": {"title": "Big", "type": "boolean"}},
}  # fmt: skip
SCHEMA = {"name": "Town", "strict": True, "schema": TOWN}
FUNCTION = {"name": "Town", "description": "A town.", "parameters": TOWN}
NAMED = {"type": "function", "function": {"name": "Town"}}
AGENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "pydantic-ai": (CHAT, {
        "messages": [said("user", "Tell me of Bonn.")], "tool_choice": "required", "max_completion_tokens": 200,
        "tools": [{"type": "function", "function": {**FUNCTION, "strict": True}}], "stream": False, "temperature": 0,
    }),
    "instructor": (CHAT, {
        "messages": [said("user", "Tell me of Bonn.")], "tool_choice": NAMED, "max_tokens": 200,
        "tools": [{"type": "function", "function": FUNCTION}],
    }),
    "instructor, a schema and a function": ("/v1/responses", {
        "input": [said("user", "Tell me of Bonn.")], "text": {"format": {"type": "json_schema", **SCHEMA}},
        "tools": [{"type": "function", "strict": True, **FUNCTION}],
        "tool_choice": {"type": "function", "name": "Town"},
    }),
    "langchain": (CHAT, {
        "messages": [said("user", "Tell me of Bonn.")], "parallel_tool_calls": False, "tool_choice": NAMED,
        "tools": [{"type": "function", "function": FUNCTION}], "stream": False, "temperature": 0.0,
    }),
    "langchain, /v1/responses": ("/v1/responses", {
        "input": [{"content": "Tell me of Bonn.", "role": "user", "type": "message"}], "parallel_tool_calls": False,
        "tools": [{"type": "function", **FUNCTION}], "tool_choice": {"type": "function", "name": "Town"},
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", AGENTS)
async def test_calls_that_agents_ask_for(loading: Served, name: str) -> None:
    load(loading, source("qwen-3"))
    path, body = AGENTS[name]
    asked = asyncio.create_task(loading.http.post(path, json={"model": "x", **body}))
    await follow(loading, end=1)
    answer = (await asked).json()
    if path == CHAT:
        calls = [call["function"] for call in answer["choices"][0]["message"]["tool_calls"]]
    else:
        calls = answer["output"]
    assert [call["name"] for call in calls] == ["Town"]
    jsonschema.validate(json.loads(calls[0]["arguments"]), TOWN)
