"""Runs one turn whose time has come: reads its files, stores it, asks the model, and stores the reply.

Two short transactions (`bot.chat.turns.turn_log`) enclose a generation that holds no database connection: the begin
transaction opens the turn and reads the snapshot that the prompt is built from, the finish transaction stores the
reply. It commits before the reply is returned, so what a front-end shows as final is in the database, unless `saved`
or `remembered` says otherwise. Knows no queue and no Discord.
"""

from __future__ import annotations

from dataclasses import replace

from structlog.contextvars import bound_contextvars

from bot.chat.chat_reply import ChatReply
from bot.chat.files.intake import FileIntake
from bot.chat.files.recent_images import RecentImages
from bot.chat.prompts.prompt_request import PromptBuilder
from bot.chat.queue.limiter import guild_key
from bot.chat.queue.refusal import WaitingMessage
from bot.chat.queue.sending import Sending
from bot.chat.reply.generation import ReplyGenerator
from bot.chat.reply.live_filter import LiveFilter
from bot.chat.reply.reply_control import ReplyControl
from bot.chat.reply.reply_progress import ReplyProgress
from bot.chat.requests import ChatRequest, PendingTurn, TurnKind
from bot.chat.scenes.choosing import SceneDirector
from bot.chat.turns.turn_log import TurnLog
from bot.engine_client.engine import Engine
from bot.failpoint import failpoint
from bot.settings import Settings
from bot.telemetry.tracing import span
from models.database import Database
from models.queries.dialogs.pairs import FILTERED


class TurnRunner:
    """Runs the turns of all dialogs. That those of one dialog come one after the other is up to the caller."""

    def __init__(
        self,
        database: Database,
        engine: Engine,
        settings: Settings,
        turns: TurnLog,
        sending: Sending,
        intake: FileIntake,
        images: RecentImages,
    ) -> None:
        self._turns = turns
        self._sending = sending
        self._intake = intake
        self._images = images
        self._director = SceneDirector(engine, settings, lambda: database.application_id)
        self._prompts = PromptBuilder(settings, lambda: engine.context_length, lambda: database.application_id)
        self._generator = ReplyGenerator(engine, settings)

    async def run(
        self,
        request: ChatRequest,
        kind: TurnKind,
        control: ReplyControl,
        message: WaitingMessage,
        progress: ReplyProgress,
        live: LiveFilter,
    ) -> ChatReply:
        """Reply to a message whose turn has come. Raises a BotError, or what showing a piece raised."""
        if kind == "new":
            if request.offers:  # nothing is downloaded for someone who may not ask
                await self._turns.check(request)
            request = await self._intake.take(request)
            if request.content_filter is not None:
                await request.content_filter.check_message([request.text, *(file.content for file in request.files)])
        with span("begin transaction"):
            async with self._sending.beginning(guild_key(request.key)):
                begun = await self._turns.begin(request, kind)
        with bound_contextvars(turn=begun.turn_id):
            turn = self._with_images(begun, request)
            failpoint("after_begin_turn")
            return await self._reply(request, turn, control, message, progress, live)

    async def _reply(
        self,
        request: ChatRequest,
        turn: PendingTurn,
        control: ReplyControl,
        message: WaitingMessage,
        progress: ReplyProgress,
        live: LiveFilter,
    ) -> ChatReply:
        """Ask the model and store its reply, or that there is none."""
        try:
            with span("prompt"):
                turn = await self._director.cast(turn)
                prompt = await self._prompts.request(turn)
            greeting = "" if live.hides(prompt.greeting) else prompt.greeting
            turn = replace(turn, greeting=f"{greeting}\n\n" if greeting else "")
            live.begin(turn.prefix + turn.greeting)
            request.on_begun(turn)
            message.begin()
            with span("generate"):
                reply = await self._generator.generate(prompt, progress.push, control, progress.watcher)
            progress.written()
            reply = await live.judged(turn, reply)
            if reply.text.strip() and reply.finish_reason != FILTERED:
                reply = replace(reply, text=turn.greeting + reply.text)
        except BaseException as error:
            await self._turns.fail(turn, error)
            raise
        with span("finish transaction"):
            saved, remembered = await self._turns.finish(turn, reply)
        return ChatReply(
            text=turn.prefix + reply.text,
            turn_id=turn.turn_id,
            delivery_id=turn.delivery_id if saved and remembered else 0,
            regenerated=not turn.is_new,
            finish_reason=reply.finish_reason,
            remembered=remembered,
            saved=saved,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            pairs_in_prompt=reply.pairs_in_prompt,
            is_empty=not reply.text.strip(),
        )

    def _with_images(self, turn: PendingTurn, request: ChatRequest) -> PendingTurn:
        """The turn with its pictures: its own, or those of the turn whose reply or words change, if still there."""
        images = request.images
        if not images and not request.offers:
            images = self._images.of(request.turn_id if turn.is_new else turn.turn_id)
        if turn.is_new:
            self._images.keep(turn.turn_id, images)
        return replace(turn, images=images)
