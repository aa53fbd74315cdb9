"""What the fake Discord does with interactions: callbacks, and the responses and follow-ups of their webhooks.

Enforces one callback, within 3 s, of a type that fits; a deferred response is ephemeral if its callback says so,
whatever the follow-up says; a token lives for 15 minutes; five follow-ups where only a user installed the application.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from tests.fakes.discord.forms import check_choices, check_modal
from tests.fakes.discord.messages import EPHEMERAL, LOADING, MENU_RESPONSE, REPLY, SLASH_RESPONSE, Interaction, Message
from tests.fakes.discord.rest import Handler, Rest, json_response
from tests.fakes.discord.rules import ApiError, invalid
from tests.fakes.discord.state import Json, Permission

CALLBACK_DEADLINE, TOKEN_LIFETIME = 3.0, 900.0  # seconds
USER_FOLLOW_UPS = 5
CALLBACK_TYPES = {
    2: {4, 5, 9},
    3: {4, 5, 6, 7, 9},
    4: {8},
    5: {4, 5, 6, 7},
}  # allowed callback types by interaction type; a modal from a command has no message to update


async def callback(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Respond to an interaction: a message (4), a defer (5, 6), an edit (7), autocomplete (8) or a modal (9)."""
    interaction = rest.interactions.get(int(given["interaction_id"]))
    if interaction is None or interaction.token != given["interaction_token"]:
        raise ApiError(404, 10062)
    if interaction.callback_type is not None:
        raise ApiError(400, 40060)
    if rest.now() - interaction.created_at > CALLBACK_DEADLINE:
        raise ApiError(404, 10062)
    kind, data = given["body"]["type"], given["body"].get("data") or {}
    if kind not in CALLBACK_TYPES[interaction.type] or (kind in (6, 7) and interaction.message is None):
        raise invalid("type", f"Callback {kind} does not fit interaction {interaction.type}")
    response: Message | None = None
    if interaction.channel.deleted:
        raise ApiError(404, 10003)
    if kind in (4, 5):
        flags = (data.get("flags") or 0) & EPHEMERAL | _forced_ephemeral(interaction)
        about = _response_fields(rest, interaction)
        if kind == 4:
            response = rest.create_message(interaction.channel, data, given["files"], flags=flags, **about)
        else:
            response = Message(interaction.channel, rest.bot, flags=LOADING | flags, created_at=rest.now(), **about)
            rest.keep(response)
    elif kind in (6, 7):
        response = interaction.message
        if kind == 7 and response:
            if response.deleted:
                raise ApiError(404, 10008)
            rest.update_message(response, data, given["files"])
    elif kind == 8:
        check_choices(data.get("choices") or [])
        interaction.choices = data.get("choices") or []
    elif kind == 9:
        check_modal(data)
        interaction.modal = data
    interaction.original = response
    interaction.callback_type, interaction.acknowledged_at = kind, rest.now()
    if response and kind != 6:
        await rest.tell("MESSAGE_UPDATE" if kind == 7 else "MESSAGE_CREATE", response)
    if request.query.get("with_response") not in ("1", "true"):
        return json_response(None, 204)
    return json_response(_result(interaction, kind, response))


def _result(interaction: Interaction, kind: int, response: Message | None) -> Json:
    about: Json = {"id": str(interaction.id), "type": interaction.type}
    if response:
        about |= {
            "response_message_id": str(response.id),
            "response_message_loading": response.loading,
            "response_message_ephemeral": response.ephemeral,
        }
    resource: Json = {"type": kind}
    if response and kind in (4, 7):
        resource["message"] = response.json()
    return {"interaction": about, "resource": resource}


def _response_fields(rest: Rest, interaction: Interaction) -> dict[str, Any]:
    """What a response to an interaction is, other than its body."""
    fields: dict[str, Any] = {"interaction": interaction, "webhook_id": rest.bot.id}
    if interaction.type == 2:
        fields["type"] = SLASH_RESPONSE if interaction.data.get("type", 1) == 1 else MENU_RESPONSE
    elif interaction.message and not interaction.message.ephemeral:
        fields |= {"type": REPLY, "reference": interaction.message}
    return fields


def _forced_ephemeral(interaction: Interaction) -> int:
    """The flag of a response that Discord hides, since this member may not use applications of their own here."""
    guild = interaction.guild
    if guild is None or not interaction.by_user_install:
        return 0
    allowed = guild.permissions(interaction.user, interaction.channel) & Permission.USE_EXTERNAL_APPS
    return 0 if allowed else EPHEMERAL


def interaction_by_token(rest: Rest, token: str) -> Interaction:
    """The interaction whose responses this token may change. Raises ApiError if it has none yet or is too old."""
    found = rest.interactions_by_token.get(token)
    if found is None:
        raise ApiError(404, 10015)
    if rest.now() - found.created_at > TOKEN_LIFETIME:
        raise ApiError(401, 50027)
    if found.callback_type is None:
        raise ApiError(404, 10015)
    return found


def find_response(interaction: Interaction, message_id: str) -> Message:
    """A response of this interaction by id, or "@original". Raises ApiError if there is none or it was deleted."""
    if message_id == "@original":
        message = interaction.original
    else:
        responses = [*interaction.followups, interaction.original]
        message = next((each for each in responses if each and str(each.id) == message_id), None)
    if message is None or message.deleted:
        raise ApiError(404, 10008)
    return message


async def get_response(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Read a response or follow-up."""
    interaction = interaction_by_token(rest, given["webhook_token"])
    return json_response(find_response(interaction, given.get("message_id", "@original")).json())


async def edit_response(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Edit a response or follow-up."""
    interaction = interaction_by_token(rest, given["webhook_token"])
    message = find_response(interaction, given.get("message_id", "@original"))
    rest.update_message(message, given["body"], given["files"])
    await rest.tell("MESSAGE_UPDATE", message)
    return json_response(message.json())


async def delete_response(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Delete a response or follow-up."""
    interaction = interaction_by_token(rest, given["webhook_token"])
    message = find_response(interaction, given.get("message_id", "@original"))
    message.deleted = True
    await rest.tell("MESSAGE_DELETE", message)
    return json_response(None, 204)


async def send_follow_up(rest: Rest, request: web.Request, given: Json) -> web.Response:
    """Send a follow-up."""
    interaction = interaction_by_token(rest, given["webhook_token"])
    if interaction.by_user_install and interaction.num_followups >= USER_FOLLOW_UPS:
        raise ApiError(400, 40094, violation="more than five follow-ups")
    if interaction.channel.deleted:
        raise ApiError(404, 10003)
    original = interaction.original
    if original and original.loading and not original.deleted:
        # The first follow-up replaces the pending response, and is ephemeral if the defer was.
        message = rest.update_message(original, given["body"], given["files"])
        await rest.tell("MESSAGE_UPDATE", message)
    else:
        flags = (given["body"].get("flags") or 0) & EPHEMERAL | _forced_ephemeral(interaction)
        about: dict[str, Any] = {"interaction": interaction, "webhook_id": rest.bot.id}
        if original and not original.ephemeral:
            about |= {"type": REPLY, "reference": original}
        message = rest.create_message(interaction.channel, given["body"], given["files"], flags=flags, **about)
        interaction.followups.append(message)
        await rest.tell("MESSAGE_CREATE", message)
    interaction.num_followups += 1
    return json_response(message.json()) if request.query.get("wait") in ("1", "true") else json_response(None, 204)


ORIGINAL = "/webhooks/{webhook_id}/{webhook_token}/messages/@original"
ROUTES: dict[tuple[str, str], Handler] = {
    ("POST", "/interactions/{interaction_id}/{interaction_token}/callback"): callback,
    ("GET", ORIGINAL): get_response,
    ("PATCH", ORIGINAL): edit_response,
    ("DELETE", ORIGINAL): delete_response,
}  # follow-ups share their paths with webhooks: see `webhook_routes`
