"""What the server does with a valid request: readiness, the prompt's token ids, submission; and /tokenize.

Runs on the event loop; nothing here blocks. Knows the loaded model; knows neither HTTP nor torch. tokenizing.py makes
token ids, generation/submission.py the response streams. Before the model is loaded, and after it has failed, every
request is refused with the reason.
"""

import asyncio
import time
from dataclasses import asdict
from typing import Literal

from engine.core.request_stream import EngineDead
from engine.load_progress import LoadProgress
from engine.server.generation.choices import Choices
from engine.server.generation.submission import RequestSubmitter
from engine.server.loaded_model import LoadedModel
from engine.server.metrics import Metrics
from engine.server.protocol.errors import RequestError, engine_unavailable
from engine.server.protocol.requests import (
    ChatRequest,
    CompletionRequest,
    EraseRequest,
    TokenizeChatRequest,
    TokenizeTextRequest,
)
from engine.server.tokenizing import PromptTokenization, check_vocabulary, context_length_exceeded
from engine.server.traces import RequestTraces

ERASE_TIMEOUT = 10.0  # seconds; a step takes far less

State = Literal["loading", "ready", "stopping", "failed"]


class ServingService:
    """The state of the server and the responses that are running."""

    def __init__(
        self,
        name: str,
        metrics: Metrics,
        *,
        max_reply_tokens: int | None = None,
        repetition_guard: bool = True,
        progress: LoadProgress | None = None,
        traces: RequestTraces | None = None,
    ) -> None:
        """`name`: of the model, for clients; `max_reply_tokens`: upper bound for every response.

        `progress`: of the thread that loads the model. `repetition_guard`: a response that does nothing but repeat
        itself is ended. `traces`: where the spans of requests go, if anywhere.
        """
        self.name = name
        self.state: State = "loading"
        self.detail = "The model is being loaded."
        self._progress = progress or LoadProgress()
        self._submitter = RequestSubmitter(
            metrics, max_reply_tokens=max_reply_tokens, repetition_guard=repetition_guard, traces=traces
        )
        self._tokenization = PromptTokenization()
        self._loaded: LoadedModel | None = None
        self._created = int(time.time())

    def set_ready(self, loaded: LoadedModel) -> None:
        """Accept requests from now on, unless the server is already shutting down."""
        if self.state == "loading":
            self._loaded, self.state, self.detail = loaded, "ready", "The model answers."

    def set_failed(self, reason: str) -> None:
        """Refuse all requests with `reason` from now on."""
        self.state, self.detail = "failed", reason

    async def stop(self, grace: float) -> None:
        """Refuse new requests, give running ones `grace` seconds to finish, then end the rest with an error."""
        self.state, self.detail = "stopping", "The engine is shutting down."
        await self._submitter.drain(grace, self.detail)

    def health(self) -> tuple[int, dict[str, object]]:
        """HTTP status and body of /health."""
        failure = self._loaded.engine.failure if self._loaded and self.state == "ready" else None
        if failure is not None:
            self.set_failed(failure)
        status = 200 if self.state == "ready" else 503
        body: dict[str, object] = {
            "status": "ok" if status == 200 else self.state,
            "detail": self.detail,
            "model": self.name,
        }
        loading = self._progress.state
        if self.state == "loading" and loading is not None:
            body |= {"detail": f"The model is being loaded: {loading}.", "progress": asdict(loading)}
        return status, body

    def model_card(self) -> dict[str, object]:
        """The model as /v1/models lists it, with vLLM's `max_model_len`."""
        card: dict[str, object] = {
            "id": self.name,
            "object": "model",
            "created": self._created,
            "owned_by": "guildllama",
            "root": self.name,
            "parent": None,
        }
        if self._loaded is not None:
            card["max_model_len"] = self._loaded.max_context
        return card

    async def chat(self, request: ChatRequest) -> Choices:
        """Submit a dialog. Raises RequestError."""
        loaded = self._require_model()
        prompt_ids = await self._tokenization.dialog(
            loaded,
            request.dialog,
            continue_last=request.continue_last,
            variables=request.chat_template_kwargs,
            tools=request.offered_tools,
        )
        stop_ids, continues = loaded.chat.stop_ids, request.continues_text
        return await self._submitter.submit(loaded, [prompt_ids], stop_ids, request, "messages", continues=continues)

    async def complete(self, request: CompletionRequest) -> tuple[Choices, list[str]]:
        """Submit prompts of text or token ids; also the text before each choice, if asked for. Raises RequestError."""
        loaded = self._require_model()
        prompts = [await self._prompt_ids(loaded, prompt, request) for prompt in request.prompt]
        choices = await self._submitter.submit(loaded, prompts, loaded.tokenizer.stop_ids, request, "prompt")
        if not request.echo:
            return choices, []
        texts = [prompt if isinstance(prompt, str) else loaded.tokenizer.decode(prompt) for prompt in request.prompt]
        return choices, [text for text in texts for _ in range(request.n)]

    async def _prompt_ids(self, loaded: LoadedModel, prompt: str | list[int], request: CompletionRequest) -> list[int]:
        if isinstance(prompt, str):
            prompt_ids = await self._tokenization.text(loaded, prompt, special_tokens=request.add_special_tokens)
        elif len(prompt) >= loaded.max_context:
            raise context_length_exceeded(loaded.max_context, len(prompt), "prompt")
        else:
            prompt_ids = check_vocabulary(loaded, prompt, "prompt")
        if not prompt_ids:
            raise RequestError("'prompt' must not be empty.", param="prompt", code="invalid_value")
        return prompt_ids

    async def tokenize(self, request: TokenizeChatRequest | TokenizeTextRequest) -> dict[str, object]:
        """The body of /tokenize, with every token id. Raises RequestError."""
        loaded = self._require_model()
        dropped: dict[str, object] = {}
        if isinstance(request, TokenizeTextRequest):
            ids = await self._tokenization.text(loaded, request.prompt, special_tokens=request.add_special_tokens)
        elif request.max_prompt_tokens is not None:
            ids, num_dropped = await self._tokenization.fitting_dialog(
                loaded,
                request.dialog,
                request.max_prompt_tokens,
                continue_last=request.continue_last,
                variables=request.chat_template_kwargs,
                tools=request.offered_tools,
            )
            dropped = {"dropped_messages": num_dropped}
        else:
            ids = await self._tokenization.dialog(
                loaded,
                request.dialog,
                continue_last=request.continue_last,
                variables=request.chat_template_kwargs,
                tools=request.offered_tools,
            )
        return {"count": len(ids), "max_model_len": loaded.max_context, "tokens": ids, "token_strs": None, **dropped}

    async def detokenize(self, tokens: list[int]) -> str:
        """The text of as many tokens as the context holds. Raises RequestError."""
        loaded = self._require_model()
        if len(tokens) > loaded.max_context:
            message = f"'tokens' may have at most {loaded.max_context} ids, as many as the context holds."
            raise RequestError(message, param="tokens", code="invalid_value")
        return await asyncio.to_thread(loaded.tokenizer.decode, check_vocabulary(loaded, tokens, "tokens"))

    async def erase(self, request: EraseRequest) -> dict[str, object]:
        """Overwrite what is cached of the prompts and replies with this salt. Raises RequestError."""
        loaded = self._require_model()
        try:
            async with asyncio.timeout(ERASE_TIMEOUT):
                num_pages = await asyncio.wrap_future(loaded.engine.erase(request.cache_salt))
        except EngineDead as error:
            raise engine_unavailable(str(error)) from error
        except TimeoutError as error:
            raise engine_unavailable("The engine did not come to it in time.") from error
        return {"object": "cache.erasure", "erased_pages": num_pages}

    def _require_model(self) -> LoadedModel:
        if self.state == "ready" and self._loaded is not None:
            return self._loaded
        raise RequestError(
            self.detail,
            status=503,
            error_type="server_error",
            code=f"engine_{self.state}",
            retry_after=5 if self.state == "loading" else None,
        )
