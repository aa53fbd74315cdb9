"""A turn between the chat and the queries: what was begun as the chat has it, what was generated as it is stored.

Pure functions; the transactions are `turn_log`'s.
"""

from __future__ import annotations

from bot.chat.prompts.faces import named_speaker
from bot.chat.reply.generation import GeneratedReply
from bot.chat.requests import ChatRequest, PendingTurn, TurnKind
from models.types import PromptRecord, Speaker, TurnResult, TurnSnapshot


def pending_turn(request: ChatRequest, kind: TurnKind, snapshot: TurnSnapshot) -> PendingTurn:
    """The turn that a begin transaction has opened, or taken up again."""
    return PendingTurn(
        key=request.key,
        kind=kind,
        turn_id=snapshot.turn_id,
        dialog_id=snapshot.dialog_id,
        text=snapshot.text,
        persona=snapshot.persona,
        history=snapshot.history,
        settings=snapshot.settings,
        messages=request.messages,
        author=snapshot.author,
        name=request.name,
        files=snapshot.files,
        files_note=snapshot.files_note,
        reply=snapshot.reply or "",
        delivery_id=snapshot.delivery_id,
        retraction=request.retraction,
        summary=snapshot.summary,
        facts=snapshot.facts,
        speaker=_speaker(snapshot, request, kind),
        scene=snapshot.scene,
        addressed=snapshot.addressed,
        counts_usage=request.limits is not None and request.limits.counts_usage,
    )


def turn_result(turn: PendingTurn, reply: GeneratedReply, *, default_prompt: str) -> TurnResult:
    """What the finish transaction stores. `default_prompt`: the settings' one, which answers without a persona."""
    text = turn.prefix + reply.text
    return TurnResult(
        reply=text,
        prompt_tokens=reply.prompt_tokens,
        completion_tokens=reply.completion_tokens,
        finish_reason=reply.finish_reason,
        first_token_ms=reply.first_token_ms,
        total_ms=reply.total_ms,
        messages=turn.messages(text, reply.finish_reason),
        retraction=turn.retraction,
        prompt=_record(turn, reply, default_prompt),
        speaker=turn.speaker,
        model=reply.model,
        counts_usage=turn.counts_usage,
    )


def _record(turn: PendingTurn, reply: GeneratedReply, default_prompt: str) -> PromptRecord:
    """What the prompt of this reply was made of."""
    persona = turn.persona
    return PromptRecord(
        persona_id=None if persona is None else persona.persona_id,
        persona_version=None if persona is None else persona.version,
        default_prompt=default_prompt if persona is None else None,
        first_turn_id=reply.first_turn_id,
        num_pairs=reply.pairs_in_prompt,
        num_examples=reply.num_examples,
        greeting=reply.greeting,
        lore=reply.lore,
        summary_id=reply.memory.summary_id,
        fact_ids=reply.memory.fact_ids,
        digest=reply.prompt_digest,
        inputs=reply.inputs,
    )


def _speaker(snapshot: TurnSnapshot, request: ChatRequest, kind: TurnKind) -> Speaker | None:
    """Who gives the reply. In a scene, and where a reply goes on, it is at first who gave the present one, if any."""
    if kind == "continue" or snapshot.scene is not None:
        return snapshot.speaker
    return named_speaker(snapshot.persona, request.persona_scope.face, snapshot.profile_id)
