"""Compiles the grammar that a request asks for on a thread of its own, so that other requests go on meanwhile.

Knows the request's fields, the model's formats and the compiler; knows no tokens.
"""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from engine.server.protocol.errors import RequestError, rate_limited
from engine.server.protocol.requests import ChatRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.chat.templated import TemplatedFormat
    from engine.chat.tool_grammar import CallableTool, ReplyRule
    from engine.logits_params import TokenConstraint
    from engine.server.loaded_model import LoadedModel
    from engine.server.protocol.requests import GenerationRequest
    from engine.structured_output.compiler import GrammarCompiler
    from engine.structured_output.grammar import GrammarSpec

MAX_WAITING = 64  # requests whose grammar is being compiled
MAX_SEARCH_SECONDS = 2.0  # for the one schema of many that cannot be compiled


class StructuredOutputManager:
    """Compiles the grammars of a server's requests. Belongs to one event loop."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "grammars")
        self._compilers: dict[frozenset[int], GrammarCompiler] = {}
        self._num_waiting = 0

    async def constraints(
        self,
        loaded: LoadedModel,
        request: GenerationRequest,
        stop_ids: frozenset[int],
        prompts: Sequence[Sequence[int]],
    ) -> list[TokenConstraint | None]:
        """One for each choice of each prompt; None: any text. Raises RequestError."""
        count = len(prompts) * request.n
        spec = _grammar_spec(loaded, request, prompts[0])
        if spec is None:
            return [None] * count
        from engine.structured_output.compiler import GrammarCompiler, GrammarError

        if self._num_waiting >= MAX_WAITING:
            raise rate_limited("Too many schemas are being compiled.", 2)
        compiler = self._compilers.get(stop_ids)
        if compiler is None:
            compiler = self._compilers[stop_ids] = GrammarCompiler(loaded.tokenizer, stop_ids)
        self._num_waiting += 1
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, lambda: [compiler.compile(spec) for _ in range(count)])
        except GrammarError as error:
            param, reason = request.structured_output_param, str(error)
            if isinstance(request, ChatRequest) and request.has_tool_grammar:
                param, reason = await loop.run_in_executor(self._executor, _culprit, compiler, request, reason)
            raise RequestError(f"'{param}' cannot be followed: {reason}.", param=param, code="invalid_value") from error
        finally:
            self._num_waiting -= 1


def _grammar_spec(loaded: LoadedModel, request: GenerationRequest, prompt: Sequence[int]) -> GrammarSpec | None:
    if isinstance(request, ChatRequest) and request.has_tool_grammar and loaded.template is not None:
        return _tool_grammar_spec(loaded, loaded.template, request, prompt)
    if not request.has_structured_output:
        return None
    from engine.structured_output.grammar import GrammarSpec

    outputs = request.structured_outputs
    if outputs is not None and outputs.regex is not None:
        return GrammarSpec("regex", outputs.regex)
    if outputs is not None and outputs.choice is not None:
        return GrammarSpec("choice", json.dumps(outputs.choice))
    return GrammarSpec.of_schema(request.json_answer)


def _tool_grammar_spec(
    loaded: LoadedModel, template: TemplatedFormat, request: ChatRequest, prompt: Sequence[int]
) -> GrammarSpec | None:
    """A template without tools has refused them already."""
    from engine.chat.reasoning import reasoning_place
    from engine.chat.tool_grammar import tool_grammar
    from engine.structured_output.grammar import GrammarSpec

    if template.tools is None:
        return None
    reasoning, has_begun = template.reasoning, False
    if reasoning is not None:
        place = "after" if request.continues_text else reasoning_place(loaded.tokenizer, reasoning, prompt)
        reasoning, has_begun = (None if place == "after" else reasoning), place == "inside"
    tools, rule = list(_callable_tools(request).values()), _reply_rule(request)
    text = tool_grammar(template.tools, tools, rule, reasoning, reasoning_has_begun=has_begun)
    return GrammarSpec("lark", text)


def _reply_rule(request: ChatRequest) -> ReplyRule:
    from engine.chat.tool_grammar import ReplyRule

    mode = request.chosen_tools.mode
    parallel = request.parallel_tool_calls and mode != "named"
    if mode in ("required", "named"):
        return ReplyRule("calls", parallel)
    if request.has_structured_output:
        return ReplyRule("calls or answer", parallel, request.json_answer)
    return ReplyRule("calls or text", parallel)


def _callable_tools(request: ChatRequest) -> dict[int, CallableTool]:
    """The tools that the reply may call, by their index in the request."""
    from engine.chat.tool_grammar import CallableTool

    names = request.chosen_tools.names
    functions = [tool["function"] for tool in request.tools or []]
    return {
        index: CallableTool.of_function(function)
        for index, function in enumerate(functions)
        if not names or function["name"] in names
    }


def _culprit(compiler: GrammarCompiler, request: ChatRequest, reason: str) -> tuple[str, str]:
    """The field whose schema cannot be compiled, and why; "tools" if looking for it would take long. Blocks."""
    from engine.structured_output.compiler import GrammarError
    from engine.structured_output.grammar import GrammarSpec
    from engine.structured_output.lark import json_value

    rule = _reply_rule(request)
    schemas = [
        (f"tools[{index}].function.parameters", f"start: {json_value(tool.parameters, lenient=not tool.strict)}")
        for index, tool in _callable_tools(request).items()
        if rule.enforces_schema(tool)
    ]
    if rule.kind == "calls or answer":
        schemas.append((request.structured_output_param, f"start: {json_value(rule.answer)}"))
    deadline = time.monotonic() + MAX_SEARCH_SECONDS
    for param, text in schemas:
        if time.monotonic() > deadline:
            break
        try:
            compiler.compile(GrammarSpec("lark", text))
        except GrammarError as error:
            return param, str(error)
    return "tools", reason
