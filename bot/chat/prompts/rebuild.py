"""Builds the prompt of a stored turn again, as `PromptBuilder` did then, and says whether it is the same.

What is gone or was changed since is named. Knows what was stored; knows neither the database nor the engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from bot.chat.prompts.memory_notes import with_notes
from bot.chat.prompts.prompt_fit import GenerationRequest
from bot.chat.prompts.prompt_request import PromptBuilder
from bot.chat.prompts.sent_prompt import digest, short_digest
from bot.chat.requests import PendingTurn, no_messages
from bot.chat.scenes.view import as_character
from bot.engine_client.messages import Message, text_of
from bot.settings import Settings
from models.types import DialogSettings, Pair, PersonaText, PromptInputs, PromptParts, PromptRecord, SceneInfo

_NO_PERSONA = PersonaText("default", "", "", 0)


@dataclass(frozen=True, slots=True)
class RebuiltPrompt:
    """A prompt that was built again. `exact`: it is the one that was sent; otherwise `differences` say why not."""

    messages: Sequence[Message] = field(repr=False)
    exact: bool
    differences: tuple[str, ...] = ()


async def rebuild(parts: PromptParts, settings: Settings) -> RebuiltPrompt:
    """The prompt of a turn from what is stored of it."""
    record = parts.record
    inputs = record.inputs or _inputs_of(record)
    most = settings.model_copy(update={"max_chat_logs": max(settings.max_chat_logs, inputs.max_pairs)})
    turn = _turn(parts, inputs)
    selected = [pair for pair in turn.history if _is_from(pair, inputs.selected_turn_id)]
    request = await PromptBuilder(most, lambda: inputs.context_length).build(turn, selected)
    for chars in inputs.cuts:
        request = request.with_files_of(chars)
    request = with_notes(request, parts.summary, parts.facts)
    pairs = _sent_pairs(request, record)
    messages = request.messages(pairs)
    if record.digest is not None and digest(messages) == record.digest:
        return RebuiltPrompt(messages, exact=True)
    return RebuiltPrompt(messages, exact=False, differences=tuple(_differences(parts, inputs, messages, pairs)))


def _turn(parts: PromptParts, inputs: PromptInputs) -> PendingTurn:
    """The turn as it was begun, without its pictures, which are not kept."""
    continued = inputs.prefix_chars > 0
    turn = PendingTurn(
        key=parts.key,
        kind="continue" if continued else "new",
        turn_id=parts.turn_id,
        dialog_id=parts.dialog_id,
        text=parts.text,
        persona=parts.persona or _NO_PERSONA,
        history=parts.history,
        settings=DialogSettings(max_chat_logs=inputs.max_pairs),
        messages=no_messages,
        author=parts.author,
        files=parts.files,
        name=inputs.name,
        reply=parts.reply[: inputs.prefix_chars] if continued else "",
    )
    if not inputs.scene or parts.persona is None:
        return turn
    played = tuple(PersonaText("guild", name, "", 0, persona_id) for persona_id, name in inputs.scene)
    scene = SceneInfo(0, "turn", played)
    return as_character(replace(turn, scene=scene), scene, parts.persona)


def _inputs_of(record: PromptRecord) -> PromptInputs:
    """What can be told of a turn that was answered before this was recorded."""
    first = record.first_turn_id
    greets = record.greeting is not None
    return PromptInputs(max_pairs=max(record.num_pairs, greets), history_turn_id=first, selected_turn_id=first)


def _is_from(pair: Pair, turn_id: int | None) -> bool:
    return turn_id is not None and pair.turn_id >= turn_id


def _sent_pairs(request: GenerationRequest, record: PromptRecord) -> list[Pair]:
    """The pairs without those that were left out, oldest first: the examples, the greeting, what was said."""
    added = [pair for pair in request.history if not pair.turn_id]
    num_added = record.num_examples + (record.greeting is not None)
    said = [pair for pair in request.history if pair.turn_id and _is_from(pair, record.first_turn_id)]
    return [*added[max(0, len(added) - num_added) :], *said]


def _differences(
    parts: PromptParts, inputs: PromptInputs, messages: Sequence[Message], pairs: Sequence[Pair]
) -> Iterator[str]:
    """What is known to have changed, or to be gone; at last, which messages are others for no known reason."""
    record = parts.record
    gone_from_system, gone_from_last = list(_gone_from_system(parts)), list(_gone_from_last(parts, inputs))
    yield from gone_from_system
    missing = record.num_pairs - sum(pair.turn_id != 0 for pair in pairs)
    if missing > 0:
        yield f"{missing} of {record.num_pairs} pairs of the conversation are gone"
    yield from gone_from_last
    if record.digest is None:
        yield "the turn was answered before prompts were recorded in full"
        return
    named = bool(gone_from_system or gone_from_last or missing > 0)
    for name in _changed(inputs, messages, pairs):
        explained = gone_from_system if name == _SYSTEM else gone_from_last if name == _NEWEST else ()
        if not explained:
            named = True
            yield f"{name} was changed since, or is put otherwise by this version of the program"
    if not named:
        yield "this version of the program builds it in another way"


_SYSTEM = "the system text"
_NEWEST = "the newest message"
_CONTINUED = "the reply that was continued"


def _gone_from_system(parts: PromptParts) -> Iterator[str]:
    record = parts.record
    if parts.persona is None and record.persona_id is None:
        yield "the default prompt of that time is gone"
    elif parts.persona is None:
        yield f"version {record.persona_version} of persona {record.persona_id} is gone"
    if record.summary_id is not None and parts.summary is None:
        yield f"summary {record.summary_id} was replaced or forgotten"


def _gone_from_last(parts: PromptParts, inputs: PromptInputs) -> Iterator[str]:
    facts = {fact.fact_id: fact for fact in parts.facts}
    for index, fact_id in enumerate(parts.record.fact_ids):
        if fact_id not in facts:
            yield f"fact {fact_id} was forgotten"
        elif inputs.fact_digests[index : index + 1] not in ((), (short_digest(facts[fact_id].text),)):
            yield f"fact {fact_id} was changed"
    if (missing := inputs.num_files - len(parts.files)) > 0:
        yield f"{missing} of {inputs.num_files} files and quotes of the message are gone"
    if inputs.num_images:
        yield f"{inputs.num_images} picture{'' if inputs.num_images == 1 else 's'} of the message, which are not kept"


def _changed(inputs: PromptInputs, messages: Sequence[Message], pairs: Sequence[Pair]) -> Iterator[str]:
    """The messages that have other words than those that were sent."""
    names = list(_names(messages, pairs))
    now = {name: short_digest(text_of(message)) for name, message in zip(names, messages, strict=True)}
    sent = inputs.message_digests
    if len(sent) == len(names):
        yield from (name for name, then in zip(names, sent, strict=True) if now[name] != then)
        return
    yield from (name for name in names if now[name] not in sent)  # which stood where is not known any more


def _names(messages: Sequence[Message], pairs: Sequence[Pair]) -> Iterator[str]:
    """What each message of a prompt is."""
    if messages[0]["role"] == "system":
        yield _SYSTEM
    for number, pair in enumerate(pairs, start=1):  # what a character begins with stands before all others
        whose = f"turn {pair.turn_id}" if pair.turn_id else f"pair {number} of the character"
        yield f"the message of {whose}"
        yield f"the reply of {whose}"
    yield _NEWEST
    if messages[-1]["role"] == "assistant":
        yield _CONTINUED
