"""Who says the messages of one reply, the bot itself or a persona through a webhook, and how each is reached.

Until it is known who answers, the bot itself says what there is to say, such as a place in line. Knows routes and
records; knows nothing of what a reply says.
"""

from __future__ import annotations

from dataclasses import replace

from bot.chat.turns.deliveries import DeliveryLog
from bot.discord_app.replies.sinks.message_route import MessageRoute
from bot.discord_app.replies.sinks.sent_messages import SentMessages
from bot.discord_app.replies.webhooks.voices import voice_of
from bot.discord_app.replies.webhooks.webhook_route import WebhookRoute
from bot.discord_app.rest.message_api import MessageApi
from models.types import Place, Speaker


class Speaking:
    """The voice of one reply. `offered`: its place, with the webhook that a persona may speak through."""

    def __init__(self, api: MessageApi, deliveries: DeliveryLog, offered: Place) -> None:
        self._api = api
        self._deliveries = deliveries
        self._offered = offered
        self._own_route = MessageRoute(api, offered)
        self._own_ids: set[int] = set()
        self._is_recorded = True
        self._use(replace(offered, webhook_id=None, webhook_name=""), self._own_route)
        if offered.webhook_name:
            self.speak_as(None)
        else:
            self._own_ids.update(each for each in offered.message_ids if each is not None)

    @property
    def by_webhook(self) -> bool:
        """Whether a persona speaks through a webhook now."""
        return self.place.webhook_id is not None

    def speak_as(self, speaker: Speaker | None) -> None:
        """Let a persona speak through the webhook; the bot itself, if there is none or the persona has no name."""
        voice = voice_of(self._offered, speaker)
        if voice is None:
            self._use(replace(self._offered, webhook_id=None, webhook_name=""), self._own_route)
        else:
            place = replace(self._offered, webhook_name=voice.name)
            self._use(place, WebhookRoute(self._api, place, voice))
        self._is_recorded = self.place == self._offered

    def _use(self, place: Place, route: MessageRoute) -> None:
        self.place = place
        """The place as it is now."""
        self.route = route
        """How messages are sent now."""
        self.sent = SentMessages(self._api, self._deliveries, place)

    async def record(self, delivery_id: int) -> None:
        """Record who speaks before the first message is sent, if it was not known when the reply was begun."""
        if not self._is_recorded:
            self._is_recorded = True
            await self._deliveries.spoken_through(delivery_id, self.place)

    def note(self, message_id: int) -> None:
        """Note that a message was sent, or found, in the present way."""
        if not self.by_webhook:
            self._own_ids.add(message_id)

    def is_out_of_voice(self, message_id: int | None) -> bool:
        """Whether the bot itself has sent a message in whose place a persona speaks now."""
        return self.by_webhook and message_id in self._own_ids

    async def remove(self, message_id: int) -> bool:
        """Delete a message in the way that reaches it; whether it is gone."""
        return await (self._own_route if message_id in self._own_ids else self.route).remove(message_id)

    async def fall_silent(self, delivery_id: int, *, whole: bool) -> None:
        """Let the bot itself speak from now on. `whole`: nothing of the reply is left that the persona has said."""
        if whole:
            self._offered = replace(self._offered, webhook_id=None, webhook_name="")
            await self._deliveries.spoken_through(delivery_id, self._offered)
        self._is_recorded = True
        self._use(replace(self.place, webhook_id=None, webhook_name=""), self._own_route)
