"""Which pairs one request sends: as many as the server takes, as far as it says so, and fewer after each refusal.

Asks the engine's client to count, at most once a message. Knows the rules of `prompt`; generates nothing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bot.chat.files.cut import cut_files, num_chars
from bot.chat.prompts.memory_notes import NO_MEMORY, UsedMemory
from bot.chat.prompts.prompt import (
    build_messages,
    estimate_drop,
    max_token_count,
    pairs_to_drop,
    pairs_within,
    prompt_size,
    without_exchanges,
)
from bot.chat.prompts.speakers import said
from bot.chat.prompts.working_size import WorkingSize
from bot.engine_client.engine import Engine
from bot.engine_client.errors import ContextExceeded
from bot.engine_client.messages import ImagePart, Message
from bot.errors import PromptTooLong
from bot.settings import Settings
from models.types import NO_INPUTS, Pair, PromptInputs, StoredFile

_REFUSALS_WITH_PAIRS = 2
"""A prompt that is refused for no known reason is sent with half of its pairs, a quarter of them, then with none."""
_REMEMBERED_MEMBERS = 1000
_SHORTENINGS = 4
"""How often the files of one message are cut until the prompt fits."""
_SURPLUS = 1.1
"""Cut by so much more than estimated: characters do not have the same number of tokens everywhere."""
_MIN_SAVING = 0.98


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Everything that a reply depends on, except the server and the operator's settings.

    `text` is what the member wrote; the prompt has it with its author and files (`words`). `history` has them already.
    It begins with a character's examples and greeting, whose turn id is 0.
    """

    persona: str
    history: Sequence[Pair]
    text: str
    user: str
    cache_salt: str
    max_reply_tokens: int
    prefix: str = ""
    """The beginning of the reply, if it is to be continued. It is not repeated in the generated text."""
    author: str | None = None
    taken: tuple[str, ...] = ()
    """Names that are not a member's here: see `bot.chat.prompts.speakers`."""
    files: tuple[StoredFile, ...] = ()
    images: tuple[ImagePart, ...] = ()
    notes: str = ""
    """What the program tells the model in front of the newest message: facts, lore, late instructions."""
    memory: UsedMemory = NO_MEMORY
    """What of the memory stands in `persona` and `notes`."""
    without_memory: GenerationRequest | None = None
    """The same without it, for a context that is too short."""
    greeting: str = ""
    """What the character says before its first reply. It stands in `history`, and the reply is shown below it."""
    greeting_index: int | None = None
    """Which greeting of the card it is."""
    lore: tuple[int, ...] = ()
    """The indexes of the lorebook's entries in this prompt."""
    inputs: PromptInputs = NO_INPUTS
    """What it was built from beside the turn, to be recorded."""

    @property
    def words(self) -> str:
        """The member's message as the model reads it."""
        words = said(self.text, self.author, self.files, self.taken)
        return f"{self.notes}\n\n{words}" if self.notes else words

    def with_less_of_files(self, share: float) -> GenerationRequest | None:
        """The same with this share of the files' text; None if that saves nothing worth a try."""
        chars = num_chars(self.files)
        shorter = self.with_files_of(int(share * chars))
        return shorter if num_chars(shorter.files) < chars * _MIN_SAVING else None

    def with_files_of(self, chars: int) -> GenerationRequest:
        """The same with its files cut to this number of characters in total."""
        inputs = replace(self.inputs, cuts=(*self.inputs.cuts, chars))
        return replace(self, files=cut_files(self.files, chars), inputs=inputs)

    def messages(self, pairs: Sequence[Pair]) -> list[Message]:
        """The prompt with these pairs."""
        messages = build_messages(self.persona, pairs, self.words, self.images)
        return [*messages, Message(role="assistant", content=self.prefix)] if self.prefix else messages


@dataclass(slots=True)
class FittedPrompt:
    """What is sent for one message, and how it was refused so far."""

    request: GenerationRequest
    pairs: Sequence[Pair]
    num_tokens: int
    """Of the prompt, 0 if it is not known."""
    max_tokens: int
    """Of the reply."""
    refusals: int = 0
    refused_size: int = 0
    """The smallest size that was refused for a reason that is not understood."""
    shortenings: int = 0
    """How often the files were cut."""

    @property
    def messages(self) -> list[Message]:
        """The prompt."""
        return self.request.messages(self.pairs)

    @property
    def greeting_index(self) -> int | None:
        """Which greeting of a character is among the pairs; None if it has none, or it was left out."""
        return self.request.greeting_index if any(not pair.turn_id for pair in self.pairs) else None

    @property
    def num_examples(self) -> int:
        """How many examples of a character are among the pairs. They are the first to be left out."""
        return sum(not pair.turn_id for pair in self.pairs) - (self.greeting_index is not None)

    def keep(self, num_pairs: int) -> None:
        """Leave out all but the newest pairs."""
        self.pairs = self.pairs[len(self.pairs) - num_pairs :]
        self.num_tokens = 0

    def cut_files(self, share: float) -> bool:
        """Leave only this share of the files' text; False if there is nothing to cut, or it was cut often enough."""
        shorter = self.request.with_less_of_files(share) if self.shortenings < _SHORTENINGS else None
        if shorter is None:
            return False
        self.request, self.num_tokens = shorter, 0
        self.shortenings += 1
        return True

    def forget(self) -> bool:
        """Leave out what is remembered; False if nothing of it is in the prompt."""
        if self.request.without_memory is None:
            return False
        self.request, self.num_tokens = self.request.without_memory, 0
        return True

    def newest_within(self, size: float) -> int:
        """How many of the newest pairs a prompt of this size has."""
        return pairs_within(self.pairs, size - prompt_size(self.request.messages(())))


class PromptFitter:
    """Fits prompts into the context of one server, and remembers which sizes it refused without naming a limit."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._size = WorkingSize()
        # Of a refusal that is not understood only the member's own prompts get shorter: it may be about their words.
        self._member_sizes: OrderedDict[str, WorkingSize] = OrderedDict()

    async def fit(self, request: GenerationRequest) -> FittedPrompt:
        """The prompt to send first. Raises PromptTooLong if the message and the persona alone do not fit."""
        prompt = await self._fit_tokens(request)
        for known in (self._size, self._member_sizes.get(request.user)):
            if known is not None and (limit := known.limit(prompt_size(prompt.messages))) is not None:
                prompt.keep(prompt.newest_within(limit))
        return prompt

    def too_long(self, prompt: FittedPrompt, exceeded: ContextExceeded) -> None:
        """Shorten a prompt that was refused as too long. Raises PromptTooLong if nothing is left to leave out."""
        tokens, pairs = exceeded.num_prompt_tokens, prompt.pairs
        room = exceeded.context_length - tokens
        if not tokens:
            self._size.refused(prompt_size(prompt.messages))
        if pairs and not tokens and self._size.accepted_size:
            prompt.keep(min(len(pairs) - 1, prompt.newest_within(self._size.accepted_size)))
        elif pairs:
            prompt.keep(len(pairs) - pairs_to_drop(pairs, prompt.refusals, tokens, prompt.max_tokens - room))
        elif prompt.forget():
            pass
        elif room < prompt.max_tokens // 2 and prompt.cut_files(_share(prompt, tokens, room)):
            pass  # with shorter files there is room for a reply that says something
        elif tokens > 0 and 0 < room < prompt.max_tokens:
            prompt.max_tokens = room  # the prompt fits; shorten the reply
        else:
            raise PromptTooLong(exceeded.context_length, tokens) from exceeded
        prompt.refusals += 1

    def refused(self, prompt: FittedPrompt) -> bool:
        """Shorten a prompt that was refused for no known reason: False if that was tried often enough.

        It may be too long in words that are not known. With the message alone it counts as refused.
        """
        if not prompt.pairs:
            return prompt.forget() or prompt.cut_files(0.5)
        size = prompt_size(prompt.messages)
        prompt.refused_size = min(size, prompt.refused_size or size)
        prompt.keep(len(prompt.pairs) // 2 if prompt.refusals < _REFUSALS_WITH_PAIRS else 0)
        prompt.refusals += 1
        return True

    def accepted(self, prompt: FittedPrompt) -> None:
        """Remember what the server took, and what it had refused before."""
        size, user = prompt_size(prompt.messages), prompt.request.user
        self._size.accepted(size)
        if prompt.refused_size:
            self._member_sizes.setdefault(user, WorkingSize()).refused(prompt.refused_size)
            if len(self._member_sizes) > _REMEMBERED_MEMBERS:
                self._member_sizes.popitem(last=False)
        if user in self._member_sizes:
            self._member_sizes[user].accepted(size)

    async def _fit_tokens(self, request: GenerationRequest) -> FittedPrompt:
        """Asks the server once, and again for each time that files have to be cut."""
        for _ in range(_SHORTENINGS):
            try:
                return await self._fit_once(request)
            except PromptTooLong as too_long:
                if request.without_memory is not None:
                    request = request.without_memory
                    continue
                prompt = FittedPrompt(request, (), too_long.got, 0)
                shorter = request.with_less_of_files(_share(prompt, too_long.got, too_long.limit - too_long.got))
                if shorter is None:
                    raise
                request = shorter
        return await self._fit_once(request)

    async def _fit_once(self, request: GenerationRequest) -> FittedPrompt:
        """Asks the server once at most. Ours says how many pairs fit; from another one's count that is estimated."""
        wanted, pairs, room = request.max_reply_tokens, request.history, None
        messages = request.messages(pairs)
        if self._engine.context_length is None:
            await self._engine.model()  # the list of models may state the context length
        if (known := self._engine.context_length) is not None:
            limit = self._capped(known)
            room = limit - _reply_reserve(wanted, limit)
            if max_token_count(messages) <= room:
                return FittedPrompt(request, pairs, 0, min(wanted, limit - max_token_count(messages)))
        counted = await self._engine.count(messages, max_tokens=room, cache_salt=request.cache_salt)
        if counted is None:
            return FittedPrompt(request, pairs, 0, wanted)
        limit, num_tokens = self._capped(counted.context_length), counted.count
        room = limit - _reply_reserve(wanted, limit)
        if counted.dropped_messages:
            pairs = without_exchanges(pairs, counted.dropped_messages // 2)
        if num_tokens > room:
            if not pairs:
                raise PromptTooLong(room, num_tokens)
            drop = estimate_drop(request.persona, pairs, request.words + request.prefix, tokens=num_tokens, room=room)
            pairs, num_tokens = pairs[drop:], 0
        return FittedPrompt(request, pairs, num_tokens, min(wanted, limit - (num_tokens or room)))

    def _capped(self, limit: int) -> int:
        return min(limit, self._settings.max_seq_len or limit)


def _share(prompt: FittedPrompt, tokens: int, room: int) -> float:
    """Which share of its files a prompt of `tokens` may keep, so that its `room` is enough for the reply.

    Half of them if the numbers are not known.
    """
    request = prompt.request
    chars = len(request.persona) + len(request.words)
    if tokens <= 0 or chars == 0:
        return 0.5
    tokens_of_files = max(1.0, tokens * num_chars(request.files) / chars)
    return max(0.0, 1 - _SURPLUS * (prompt.max_tokens - room) / tokens_of_files)


def _reply_reserve(max_reply_tokens: int, limit: int) -> int:
    """Tokens reserved for the reply: `max_reply_tokens`, but at most half of the context."""
    return min(max_reply_tokens, limit // 2)
