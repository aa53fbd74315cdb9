"""What users of the fake Discord do with the application: commands, menus, autocomplete, buttons, selects, modals.

Like Discord's clients, it offers only what is there: a registered command in its contexts, a component that the
message has now. The `force_…` methods send what a modified client could send.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from tests.fakes.discord.forms import FILE_UPLOAD, SELECTS, TEXT_INPUT, modal_fields
from tests.fakes.discord.messages import Attachment, Interaction, Message
from tests.fakes.discord.people import People, Place
from tests.fakes.discord.state import Channel, Guild, Json, Permission, Role, User

Option = str | int | bool | float | Channel | Role | User | Attachment
OPTION_TYPES: dict[type, int] = {str: 3, int: 4, bool: 5, User: 6, Channel: 7, Role: 8, float: 10, Attachment: 11}
AUTOCOMPLETE_SECONDS = 3.0


class Using(People):
    """Interactions of users with the application."""

    # ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def registered(self, name: str, kind: int = 1) -> Json:
        """A registered command."""
        found = [command for command in self.rest.commands if (command["name"], command["type"]) == (name, kind)]
        assert found, f"{name} is not registered: {[command['name'] for command in self.rest.commands]}"
        return found[0]

    def _check_offered(self, command: Json, channel: Channel, user: User) -> None:
        """Fail if Discord does not offer this command to this user here."""
        contexts, installs = command.get("contexts"), command["integration_types"]
        context = 0 if channel.guild else 1 if channel.recipient else 2
        assert contexts is None or context in contexts, f"/{command['name']} is not offered here"
        by_guild = 0 in installs and (channel.guild.joined if channel.guild else channel.recipient is not None)
        assert by_guild or (1 in installs and user.installed), f"/{command['name']} is not installed here"
        if channel.guild:
            allowed = channel.guild.permissions(user, channel)
            assert allowed & Permission.USE_APPLICATION_COMMANDS, f"{user.name} may not use commands"

    async def command(self, where: Place, user: User, name: str, /, **options: Option) -> Interaction:
        """Use a slash command, such as "persona set", in a channel, a guild's first channel or direct messages."""
        channel = self.place(where)
        first = name.split()[0]
        command = self.registered(first)
        self._check_offered(command, channel, user)
        return await self.force_command(channel, channel.guild, user, command["id"], name, **options)

    async def force_command(
        self, channel: Channel, guild: Guild | None, user: User, command_id: str, name: str, /, **options: Option
    ) -> Interaction:
        """Use a command without Discord's own checks, as a modified client or an overridden permission allows."""
        data: Json = {"id": command_id, "name": name.split()[0], "type": 1}
        data["options"] = _nested(name, [self._option(key, value) for key, value in options.items()])
        if resolved := self._resolved(list(options.values()), guild, user):
            data["resolved"] = resolved
        return await self._create(2, user, guild, channel, data)

    def _option(self, name: str, value: Option) -> Json:
        if isinstance(value, Attachment):
            value.ephemeral = True
            self.cdn.host(value, self.bot.id)
        raw = value if isinstance(value, str | int | float) else str(value.id)
        return {"name": name, "type": OPTION_TYPES[type(value)], "value": raw}

    def _resolved(self, values: Sequence[object], guild: Guild | None, viewer: User) -> Json:
        """The objects behind ids, as Discord adds them to an interaction."""
        found: dict[str, Json] = {}
        for value in values:
            match value:
                case Channel():
                    found.setdefault("channels", {})[str(value.id)] = value.json(viewer)
                case Role():
                    found.setdefault("roles", {})[str(value.id)] = value.json()
                case Attachment():
                    found.setdefault("attachments", {})[str(value.id)] = value.json()
                case User():
                    found.setdefault("users", {})[str(value.id)] = value.json()
                    if guild:
                        member = {**guild.member(value), "permissions": str(int(guild.permissions(value)))}
                        found.setdefault("members", {})[str(value.id)] = member
        return found

    async def chat(self, where: Place, user: User, message: str, **options: Option) -> Interaction:
        """Use /chat."""
        return await self.command(where, user, "chat", message=message, **options)

    async def menu(self, target: Message | User, user: User, name: str, where: Place | None = None) -> Interaction:
        """Use a context menu command on a message, or on a user somewhere."""
        command = self.registered(name, 3 if isinstance(target, Message) else 2)
        if isinstance(target, Message):
            assert not target.deleted
            assert not target.ephemeral
            channel = target.channel
            resolved: Json = {"messages": {str(target.id): target.json()}}
        else:
            assert where is not None, "a user is somewhere"
            channel = self.place(where)
            resolved = self._resolved([target], channel.guild, user)
        self._check_offered(command, channel, user)
        data = {"id": command["id"], "name": name, "type": command["type"], "target_id": str(target.id),
                "resolved": resolved}  # fmt: skip
        return await self._create(2, user, channel.guild, channel, data)

    async def autocomplete(
        self, where: Place, user: User, name: str, /, *, option: str, typed: str, **options: Option
    ) -> list[Json]:
        """The suggestions for an option while the user types. TimeoutError if there are none within 3 s."""
        channel = self.place(where)
        command = self.registered(name.split()[0])
        self._check_offered(command, channel, user)
        node = command
        for part in name.split()[1:]:
            node = next(each for each in node["options"] if each["name"] == part)
        declared = next(each for each in node["options"] if each["name"] == option)
        assert declared.get("autocomplete"), f"{option} has no autocomplete"
        focused = {"name": option, "type": declared["type"], "value": typed, "focused": True}
        given = [*(self._option(key, value) for key, value in options.items()), focused]
        data: Json = {"id": command["id"], "name": command["name"], "type": 1, "options": _nested(name, given)}
        asked = await self._create(4, user, channel.guild, channel, data)
        await self.until(lambda: asked.choices is not None, AUTOCOMPLETE_SECONDS)
        return asked.choices or []

    # ── components ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def click(self, message: Message, user: User, *, label: str = "") -> Interaction:
        """Click a button of a message: the first one whose label contains `label`.

        Unlike `press`, it does not ask whether the user can see an ephemeral message.
        """
        return await self._use(message, user, self._component(message, label=label))

    async def press(
        self, message: Message, user: User, label: str = "", custom_id: str | None = None, emoji: str | None = None
    ) -> Interaction:
        """Press a button that the user can see and that the message has now."""
        self._check_visible(message, user)
        return await self._use(message, user, self._component(message, label=label, custom_id=custom_id, emoji=emoji))

    async def select(
        self, message: Message, user: User, *values: str | User | Role | Channel, custom_id: str | None = None
    ) -> Interaction:
        """Choose from a select menu: options by their value or label, or users, roles and channels."""
        self._check_visible(message, user)
        menus = [each for each in message.all_components() if each["type"] in SELECTS and not each.get("disabled")]
        menu = next((each for each in menus if custom_id in (None, each["custom_id"])), None)
        assert menu, "there is no such select menu"
        chosen = _choose(menu, values)
        data: Json = {"custom_id": menu["custom_id"], "component_type": menu["type"], "id": menu["id"],
                      "values": chosen}  # fmt: skip
        if resolved := self._resolved(values, message.channel.guild, user):
            data["resolved"] = resolved
        return await self._create(3, user, message.channel.guild, message.channel, data, message=message)

    async def force_component(
        self, message: Message, user: User, custom_id: str, channel: Channel | None = None,
        guild: Guild | None = None, *, kind: int = 2, values: Sequence[str] = (),
    ) -> Interaction:  # fmt: skip
        """Use a component that may not exist, on any message, as if in another channel or guild."""
        data: Json = {"custom_id": custom_id, "component_type": kind, "id": 1}
        if kind in SELECTS:
            data["values"] = list(values)
        channel = channel or (guild.channel if guild else message.channel)
        for attachment in message.attachments:
            if attachment.sign is None:
                self.cdn.host(attachment, channel.id)
        return await self._create(3, user, guild or channel.guild, channel, data, message=message)

    def _check_visible(self, message: Message, user: User) -> None:
        asker = message.interaction.user if message.interaction else None
        assert not message.ephemeral or asker is user, f"{user.name} cannot see this message"
        guild = message.channel.guild
        assert guild is None or guild.permissions(user, message.channel) & Permission.VIEW_CHANNEL

    def _component(
        self, message: Message, *, label: str = "", custom_id: str | None = None, emoji: str | None = None
    ) -> Json:
        assert not message.deleted, "the message is gone"
        found = [
            button for button in message.buttons()
            if label in (button.get("label") or "") and custom_id in (None, button.get("custom_id"))
            and (emoji is None or emoji == (button.get("emoji") or {}).get("name"))
        ]  # fmt: skip
        shown = [(button.get("label"), (button.get("emoji") or {}).get("name")) for button in message.buttons()]
        assert found, f"there is no such button among {shown}"
        assert not found[0].get("disabled"), "the button is disabled"
        assert found[0].get("custom_id"), "a link sends no interaction"
        return found[0]

    async def _use(self, message: Message, user: User, button: Json) -> Interaction:
        data = {"custom_id": button["custom_id"], "component_type": 2, "id": button["id"]}
        return await self._create(3, user, message.channel.guild, message.channel, data, message=message)

    # ── modals ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def submit(self, interaction: Interaction, **values: str | Sequence[object] | bool) -> Interaction:
        """Fill in the modal that an interaction opened, by the custom ids of its fields, and submit it.

        A text may be longer than the field allows, as from a modified client; the rest is as Discord's clients do it.
        """
        data = self._filled_in(interaction, values)
        return await self._create(
            5, interaction.user, interaction.guild, interaction.channel, data, message=interaction.message
        )

    async def force_submit(self, channel: Channel, user: User, interaction: Interaction, **values: str) -> Interaction:
        """Submit a modal that someone else opened, or somewhere else, as a modified client could."""
        return await self._create(5, user, channel.guild, channel, self._filled_in(interaction, values))

    def _filled_in(self, interaction: Interaction, values: Mapping[str, object]) -> Json:
        assert interaction.modal, "no modal is open"
        chosen: list[object] = []
        sent: list[Json] = []
        for row in interaction.modal["components"]:
            if row["type"] == 10:
                continue
            fields = row.get("components") or [row["component"]]
            inner = [self._field(field, values.get(field["custom_id"]), chosen) for field in fields]
            sent.append({"type": row["type"], "id": row.get("id") or 2,
                         **({"components": inner} if row["type"] == 1 else {"component": inner[0]})})  # fmt: skip
        unknown = set(values) - {field["custom_id"] for field in modal_fields(interaction.modal)}
        assert not unknown, f"the modal has no {unknown}"
        data: Json = {"custom_id": interaction.modal["custom_id"], "components": sent}
        if resolved := self._resolved(chosen, interaction.guild, interaction.user):
            data["resolved"] = resolved
        return data

    def _field(self, field: Json, value: object, chosen: list[object]) -> Json:
        own: Json = {"type": field["type"], "id": field.get("id") or 1, "custom_id": field["custom_id"]}
        kind = field["type"]
        if kind == TEXT_INPUT:
            return {**own, "value": field.get("value") or "" if value is None else value}
        if kind == 23:  # a checkbox
            return {**own, "value": bool(field.get("default")) if value is None else value}
        if kind == 21:  # a group of radio buttons
            defaults = [each["value"] for each in field["options"] if each.get("default")]
            return {**own, "value": (defaults or [None])[0] if value is None else value}
        options = field.get("options") or ()
        given = list(value) if isinstance(value, list | tuple) else [value] if value is not None else []
        if not given:
            given = [each["value"] for each in options if each.get("default")]
        assert len(given) <= (field.get("max_values") or 1)
        assert given or not field.get("required", True), f"{field['custom_id']} is required"
        if kind == FILE_UPLOAD:
            for file in given:
                assert isinstance(file, Attachment)
                self._option("", file)
        names = [str(each.id) if isinstance(each, User | Role | Channel | Attachment) else str(each) for each in given]
        assert not options or set(names) <= {each["value"] for each in options}
        chosen += given
        return {**own, "values": names}

    # ── any interaction ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _create(
        self,
        kind: int,
        user: User,
        guild: Guild | None,
        channel: Channel,
        data: Json,
        *,
        message: Message | None = None,
    ) -> Interaction:
        token = f"aW50ZXJhY3Rpb246{secrets.token_urlsafe(90)}"
        owners = {}
        if guild.joined if guild else channel.recipient is not None:
            owners["0"] = str(guild.id if guild else 0)
        if message and message.interaction and message.channel is channel:
            owners = message.interaction.owners  # whoever presses it: the one who brought the application
        elif user.installed:
            owners["1"] = str(user.id)
        interaction = Interaction(kind, user, guild, channel, data, self.rest.now(), token, message, owners)
        self.rest.interactions[interaction.id] = interaction
        self.rest.interactions_by_token[interaction.token] = interaction
        await self.gateway.dispatch("INTERACTION_CREATE", interaction.json(self.bot.id))
        return interaction

    async def repeat(self, interaction: Interaction) -> None:
        """Send the same INTERACTION_CREATE once more, with a new sequence number."""
        await self.gateway.dispatch("INTERACTION_CREATE", interaction.json(self.bot.id))


def _nested(name: str, options: list[Json]) -> list[Json]:
    """The options of "group sub" as Discord nests them."""
    for position, part in enumerate(reversed(name.split()[1:])):
        options = [{"name": part, "type": 1 if position == 0 else 2, "options": options}]
    return options


def _choose(menu: Json, values: Sequence[str | User | Role | Channel]) -> list[str]:
    least, most = menu.get("min_values"), menu.get("max_values")
    assert (1 if least is None else least) <= len(values) <= (1 if most is None else most), "too few or too many values"
    if menu["type"] != 3:
        return [str(value.id) for value in values if not isinstance(value, str)]
    by_name = {option[key]: option["value"] for key in ("label", "value") for option in menu["options"]}
    assert set(values) <= set(by_name), f"the menu offers {sorted(by_name)}"
    return [by_name[str(value)] for value in values]
