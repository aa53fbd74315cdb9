"""Compiles the grammar that a request asks for on a thread of its own, so that other requests go on meanwhile.

Knows the request's fields and the compiler; knows no tokens.
"""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from engine.server.protocol.errors import RequestError, rate_limited

if TYPE_CHECKING:
    from engine.logits_params import TokenConstraint
    from engine.server.loaded_model import LoadedModel
    from engine.server.protocol.structured_output_fields import StructuredOutputFields
    from engine.structured_output.compiler import GrammarCompiler
    from engine.structured_output.grammar import GrammarSpec

MAX_WAITING = 64  # requests whose grammar is being compiled


class StructuredOutputManager:
    """Compiles the grammars of a server's requests. Belongs to one event loop."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, "grammars")
        self._compilers: dict[frozenset[int], GrammarCompiler] = {}
        self._num_waiting = 0

    async def constraints(
        self, loaded: LoadedModel, request: StructuredOutputFields, stop_ids: frozenset[int], count: int
    ) -> list[TokenConstraint | None]:
        """One for each of `count` choices; None: any text. Raises RequestError."""
        spec = _grammar_spec(request)
        if spec is None:
            return [None] * count
        from engine.structured_output.compiler import GrammarCompiler, GrammarError

        if self._num_waiting >= MAX_WAITING:
            raise rate_limited("Too many schemas are being compiled.", 2)
        compiler = self._compilers.get(stop_ids)
        if compiler is None:
            compiler = self._compilers[stop_ids] = GrammarCompiler(loaded.tokenizer, stop_ids)
        self._num_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._executor, lambda: [compiler.compile(spec) for _ in range(count)]
            )
        except GrammarError as error:
            message = f"'{request.structured_output_param}' cannot be followed: {error}."
            raise RequestError(message, param=request.structured_output_param, code="invalid_value") from error
        finally:
            self._num_waiting -= 1


def _grammar_spec(request: StructuredOutputFields) -> GrammarSpec | None:
    if not request.has_structured_output:
        return None
    from engine.structured_output.grammar import GrammarSpec

    any_object: dict[str, object] = {"type": "object"}
    outputs, response_format = request.structured_outputs, request.response_format
    if outputs is not None:
        if outputs.regex is not None:
            return GrammarSpec("regex", outputs.regex)
        if outputs.choice is not None:
            return GrammarSpec("choice", json.dumps(outputs.choice))
        return GrammarSpec.of_schema(any_object if outputs.json_schema is None else outputs.json_schema)
    if response_format is None or response_format.json_schema is None:
        return GrammarSpec.of_schema(any_object)
    return GrammarSpec.of_schema(response_format.json_schema.json_schema)
