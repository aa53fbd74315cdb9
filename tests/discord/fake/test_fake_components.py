"""Commands, menus, autocomplete, buttons, selects and modals of the fake Discord, driven by a discord.py client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import discord
import pytest
from discord import app_commands, ui

from tests.discord.fake.fake_client import PLAIN, RawClient, RecordingClient, connected, wait_for
from tests.fakes.discord.server import Attachment, FakeDiscord, Guild, Interaction, Message, User

NONE = discord.AllowedMentions.none()


class Question(ui.Modal, title="A question"):
    """A modal with every kind of field that a bot of ours could use."""

    def __init__(self) -> None:
        super().__init__(custom_id="question")
        self.text: ui.Label[Any] = ui.Label(text="Text", component=ui.TextInput(custom_id="text", max_length=20))
        options = [discord.SelectOption(label="Red", value="r"), discord.SelectOption(label="Blue", value="b")]
        self.colour: ui.Label[Any] = ui.Label(text="Colour", component=ui.Select(custom_id="colour", options=options))
        self.files: ui.Label[Any] = ui.Label(text="Files", component=ui.FileUpload(custom_id="files", max_values=2))
        for item in (self.text, self.colour, self.files):
            self.add_item(item)

    async def on_submit(self, interaction: discord.Interaction) -> None:
        text, colour, files = (each.component for each in (self.text, self.colour, self.files))
        content = [(await file.read()).decode() for file in files.values]
        await interaction.response.send_message(f"{text.value} {colour.values} {content}", allowed_mentions=NONE)


class Panel(ui.View):
    """Buttons and a select menu that answer in every way there is."""

    def __init__(self) -> None:
        super().__init__(timeout=None)

    @ui.button(label="Update", custom_id="update", emoji="🔁")
    async def update(self, interaction: discord.Interaction, button: ui.Button[Any]) -> None:
        button.disabled = True
        await interaction.response.edit_message(content="Updated", view=self, allowed_mentions=NONE)

    @ui.button(label="Later", custom_id="later")
    async def later(self, interaction: discord.Interaction, button: ui.Button[Any]) -> None:
        await interaction.response.defer()
        await interaction.edit_original_response(content="Late", allowed_mentions=NONE)
        await interaction.followup.send("And more", ephemeral=True, allowed_mentions=NONE)

    @ui.button(label="Ask", custom_id="ask")
    async def ask(self, interaction: discord.Interaction, button: ui.Button[Any]) -> None:
        await interaction.response.send_modal(Question())

    @ui.select(cls=ui.UserSelect, custom_id="who", row=1)
    async def who(self, interaction: discord.Interaction, select: ui.UserSelect[Any]) -> None:
        await interaction.response.send_message(select.values[0].name, ephemeral=True, allowed_mentions=NONE)


def add_commands(client: RecordingClient) -> None:
    """What the bot of these tests can do."""

    @client.tree.command(description="Show a panel")
    async def panel(interaction: discord.Interaction, hidden: bool = False) -> None:
        await interaction.response.send_message("Panel", view=Panel(), ephemeral=hidden, allowed_mentions=NONE)

    @client.tree.command(description="Read a file")
    async def read(interaction: discord.Interaction, file: discord.Attachment, friend: discord.Member) -> None:
        text = (await file.read()).decode()
        await interaction.response.send_message(f"{friend.name}: {text}", allowed_mentions=NONE)

    @client.tree.context_menu(name="Ask about this")
    async def about(interaction: discord.Interaction, message: discord.Message) -> None:
        await interaction.response.send_message(f"{message.author.name}: {message.content}", allowed_mentions=NONE)

    @client.tree.context_menu(name="Greet")
    async def greet(interaction: discord.Interaction, user: discord.Member) -> None:
        await interaction.response.send_message(f"Hi {user.name}", allowed_mentions=NONE)

    group = app_commands.Group(name="conversation", description="Conversations")

    @group.command(description="Switch")
    async def switch(interaction: discord.Interaction, name: str) -> None:
        await interaction.response.send_message(name, allowed_mentions=NONE)

    @switch.autocomplete("name")
    async def names(interaction: discord.Interaction, current: str) -> list[app_commands.Choice[str]]:
        return [app_commands.Choice(name=each, value=each) for each in ("apple", "avocado", "pear") if current in each]

    client.tree.add_command(group)


@pytest.fixture
async def fake() -> AsyncIterator[FakeDiscord]:
    async with FakeDiscord() as fake:
        yield fake
        assert fake.violations == []


@pytest.fixture
async def client(fake: FakeDiscord, guild: Guild, ann: User) -> AsyncIterator[RecordingClient]:
    async with connected(fake, setup=add_commands) as client:
        await client.tree.sync()
        yield client


async def panel(fake: FakeDiscord, guild: Guild, ann: User, *, hidden: bool = False) -> Message:
    shown = await fake.command(guild, ann, "panel", hidden=hidden)
    await fake.done(shown)
    return shown.messages()[0]


async def test_buttons_update_defer_and_disappear(
    fake: FakeDiscord, client: RecordingClient, guild: Guild, ann: User
) -> None:
    message = await panel(fake, guild, ann)
    assert message.json()["interaction_metadata"]["user"]["id"] == str(ann.id)
    used = await fake.press(message, ann, "Later")
    await fake.until(lambda: used.followups)
    assert (message.content, used.callback_type, used.followups[0].ephemeral) == ("Late", 6, True)
    await fake.done(await fake.press(message, ann, emoji="🔁"))
    assert message.content == "Updated"
    with pytest.raises(AssertionError, match="disabled"):
        await fake.press(message, ann, "Update")
    with pytest.raises(AssertionError, match="no such button"):
        await fake.click(message, ann, label="Dance")
    await wait_for(lambda: client.named("raw_message_edit"))
    assert client.named("message")[0].type == discord.MessageType.chat_input_command
    public, ephemeral = client.named("message")
    assert (public.guild, public.author) == (client.guilds[0], client.user)
    assert (ephemeral.guild, ephemeral.flags.ephemeral, ephemeral.author) == (None, True, client.user)


async def test_an_ephemeral_message_belongs_to_its_interaction(
    fake: FakeDiscord, client: RecordingClient, guild: Guild, ann: User
) -> None:
    message = await panel(fake, guild, ann, hidden=True)
    for act in (client.http.get_message, client.http.delete_message):
        with pytest.raises(discord.NotFound):
            await act(guild.channel.id, message.id)
    with pytest.raises(AssertionError, match="cannot see"):
        await fake.press(message, fake.user("bob"), "Later")
    await fake.done(await fake.press(message, ann, "Update"))
    assert (message.content, message.ephemeral) == ("Updated", True)


async def test_a_select_menu_resolves_its_values(
    fake: FakeDiscord, client: RecordingClient, guild: Guild, ann: User
) -> None:
    message = await panel(fake, guild, ann)
    chosen = await fake.select(message, ann, fake.user("bob"))
    await fake.done(chosen)
    assert chosen.reply() == "bob"
    with pytest.raises(AssertionError, match="too few"):
        await fake.select(message, ann)


async def test_a_modal_takes_text_choices_and_files(
    fake: FakeDiscord, client: RecordingClient, guild: Guild, ann: User
) -> None:
    opened = await fake.press(await panel(fake, guild, ann), ann, "Ask")
    await fake.done(opened)
    sent = await fake.submit(opened, text="Hi", colour="b", files=[Attachment("a.txt", b"abc")])
    await fake.done(sent)
    assert sent.reply() == "Hi ['b'] ['abc']"
    assert sent.json(1)["message"]["id"] == str(opened.message.id if opened.message else 0)
    with pytest.raises(AssertionError):
        await fake.submit(opened, text="Hi", colour="green", files=[Attachment("a.txt", b"abc")])
    with pytest.raises(AssertionError, match="files is required"):
        await fake.submit(opened, text="Hi", colour="b")


async def test_menus_options_and_autocomplete(
    fake: FakeDiscord, client: RecordingClient, guild: Guild, ann: User
) -> None:
    bob = fake.user("bob")
    said = await fake.say(guild, bob, "Not meant for the bot")
    asked = await fake.menu(said, ann, "Ask about this")
    greeted = await fake.menu(bob, ann, "Greet", guild)
    read = await fake.command(guild, ann, "read", file=Attachment("a.txt", b"abc"), friend=bob)
    await fake.done(asked, greeted, read)
    assert [each.reply() for each in (asked, greeted, read)] == ["bob: Not meant for the bot", "Hi bob", "bob: abc"]
    choices = await fake.autocomplete(guild, ann, "conversation switch", option="name", typed="a")
    assert [choice["name"] for choice in choices] == ["apple", "avocado", "pear"]
    with pytest.raises(AssertionError, match="not registered"):
        await fake.menu(said, ann, "Greet")


async def test_a_forged_component_names_what_it_likes(
    fake: FakeDiscord, client: RecordingClient, guild: Guild, ann: User
) -> None:
    other, bob = fake.guild("Beta"), fake.user("bob")
    foreign = Message(guild.channel, bob, "Mine")
    await fake.force_component(foreign, ann, "stop:1", guild=other)
    await wait_for(lambda: client.named("interaction")[-1:] and client.named("interaction")[-1].data["custom_id"])
    forged = client.named("interaction")[-1]
    assert (forged.guild_id, forged.message.author.id, forged.data["custom_id"]) == (other.id, bob.id, "stop:1")


# ── what Discord refuses ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
async def lax() -> AsyncIterator[FakeDiscord]:
    """A fake whose violations are expected."""
    async with FakeDiscord() as lax:
        yield lax


@pytest.fixture
async def raw(lax: FakeDiscord) -> AsyncIterator[RawClient]:
    lax.rest.limits = {kind: (1000, 1.0) for kind in lax.rest.limits}
    async with aiohttp.ClientSession() as http:
        yield RawClient(lax, http)


def row(*items: Any) -> dict[str, Any]:
    return {"type": 1, "components": list(items)}


def button(custom_id: str = "a", **fields: Any) -> dict[str, Any]:
    return {"type": 2, "style": 1, "custom_id": custom_id, "label": "A", **fields}


def option(value: str, **fields: Any) -> dict[str, Any]:
    return {"label": "A", "value": value, **fields}


SELECT = {"type": 3, "custom_id": "s", "options": [option("1"), option("2")]}


@pytest.mark.parametrize(
    "components",
    [
        [row(button(str(number))) for number in range(6)],
        [row(*(button(str(number)) for number in range(6)))],
        [row(button(), button())],
        [row(button(label="x" * 81))],
        [row(button("x" * 101))],
        [row(button(label=None))],
        [row(button(emoji={"name": "smile"}))],
        [row(button(style=5))],
        [row(button(url="https://example.org"))],
        [row({"type": 2, "style": 5, "label": "A", "url": "javascript:alert(1)"})],
        [row(button(), SELECT)],
        [row({**SELECT, "options": []})],
        [row({**SELECT, "options": [option("1"), option("1")]})],
        [row({**SELECT, "options": [option(str(number)) for number in range(26)]})],
        [row({**SELECT, "max_values": 3})],
        [row({**SELECT, "min_values": 2, "max_values": 1})],
        [
            row(
                {
                    "type": 6,
                    "custom_id": "r",
                    "default_values": [{"id": "1", "type": "role"}, {"id": "2", "type": "role"}],
                }
            )
        ],
        [{"type": 4, "custom_id": "t", "style": 1, "label": "Text"}],
        [{"type": 10, "content": "Text without the flag"}],
    ],
)
async def test_invalid_components_are_refused(lax: FakeDiscord, raw: RawClient, components: list[Any]) -> None:
    where = f"/channels/{lax.guild('Alpha').channel.id}/messages"
    assert await raw.code("POST", where, {**PLAIN, "components": components}) == 50035
    assert len(lax.violations) == 1


async def test_valid_components_are_accepted(lax: FakeDiscord, raw: RawClient) -> None:
    where = f"/channels/{lax.guild('Alpha').channel.id}/messages"
    link = {"type": 2, "style": 5, "label": "Site", "url": "https://example.org"}
    emojis = ["⏹️", "▶", "◀", "🔁", "✏️", "🗑️", "1️⃣", "❌"]
    rows = [row(*(button(each, emoji={"name": each}, label=None) for each in emojis[:5])), row(link), row(SELECT)]
    rows.append(row(*(button(each, emoji={"name": each}) for each in emojis[5:])))
    assert (await raw.send("POST", where, {**PLAIN, "components": rows}))[0] == 200
    body = {"flags": 1 << 15, "components": [{"type": 10, "content": "Text"}], "allowed_mentions": {"parse": []}}
    assert (await raw.send("POST", where, body))[0] == 200
    assert await raw.code("POST", where, {**body, "content": "Text"}) == 50035
    long = [{"type": 10, "content": "x" * 2000}, {"type": 17, "components": [{"type": 10, "content": "x" * 2000}]}]
    assert (await raw.send("POST", where, {**body, "components": long}))[0] == 200
    assert await raw.code("POST", where, {**body, "components": [*long, {"type": 10, "content": "x"}]}) == 50035


def text_input(custom_id: str, **fields: Any) -> dict[str, Any]:
    return {"type": 4, "custom_id": custom_id, "style": 1, **fields}


def label(component: dict[str, Any], text: str = "A") -> dict[str, Any]:
    return {"type": 18, "label": text, "component": component}


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({}, False),
        ({"components": [row(text_input("a", label="A"))]}, False),
        ({"title": "x" * 46}, True),
        ({"custom_id": "x" * 101}, True),
        ({"components": []}, True),
        ({"components": [label(text_input(str(number))) for number in range(6)]}, True),
        ({"components": [label(text_input("a")), label(text_input("a"))]}, True),
        ({"components": [label(text_input("a"), "x" * 46)]}, True),
        ({"components": [label(text_input("a", max_length=4001))]}, True),
        ({"components": [label(text_input("a", value="x" * 21, max_length=20))]}, True),
        ({"components": [label(text_input("a", min_length=5, max_length=4))]}, True),
        ({"components": [label(text_input("a", placeholder="x" * 101))]}, True),
        ({"components": [row(text_input("a"))]}, True),
        ({"components": [row(text_input("a", label="A"), text_input("b", label="B"))]}, True),
        ({"components": [row(button())]}, True),
        ({"components": [label(SELECT)]}, False),
        ({"components": [label({**SELECT, "disabled": True})]}, True),
        ({"components": [label({"type": 19, "custom_id": "f", "max_values": 11})]}, True),
    ],
)
async def test_modals_have_limits(lax: FakeDiscord, raw: RawClient, change: dict[str, Any], refused: bool) -> None:
    guild = lax.guild("Alpha")
    asked = await lax.force_command(guild.channel, guild, lax.user("ann"), "1", "chat")
    data = {"title": "A", "custom_id": "m", "components": [label(text_input("a"))], **change}
    code = await raw.code("POST", callback(asked), {"type": 9, "data": data})
    assert code == (50035 if refused else 0)
    assert (asked.modal is None) is refused


def callback(interaction: Interaction) -> str:
    return f"/interactions/{interaction.id}/{interaction.token}/callback"


async def test_callbacks_must_fit_their_interaction(lax: FakeDiscord, raw: RawClient) -> None:
    guild, ann = lax.guild("Alpha"), lax.user("ann")
    modal = {"type": 9, "data": {"title": "A", "custom_id": "m", "components": [label(text_input("a"))]}}
    asked = await lax.force_command(guild.channel, guild, ann, "1", "chat")
    for kind in (6, 7, 8):
        assert await raw.code("POST", callback(asked), {"type": kind, "data": {}}) == 50035
    assert await raw.code("POST", callback(asked), modal) == 0
    sent = await lax.submit(asked, a="Hello")
    assert await raw.code("POST", callback(sent), modal) == 50035
    assert await raw.code("POST", callback(sent), {"type": 6}) == 50035  # there is no message behind it
    assert await raw.code("POST", callback(sent), {"type": 4, "data": PLAIN}) == 0
    assert await raw.code("POST", callback(sent), {"type": 4, "data": PLAIN}) == 40060


async def test_a_response_is_done_when_nothing_is_left_to_stop(lax: FakeDiscord, raw: RawClient) -> None:
    guild, ann = lax.guild("Alpha"), lax.user("ann")
    asked = await lax.force_command(guild.channel, guild, ann, "1", "chat")
    original = f"/webhooks/{lax.bot.id}/{asked.token}/messages/@original"
    await raw.send("POST", callback(asked), {"type": 5})
    assert not asked.done()
    for custom_id, done in (("stop:1", False), ("regenerate:1", True)):
        await raw.send("PATCH", original, {**PLAIN, "components": [row(button(custom_id))]})
        assert asked.done() is done
    pressed = await lax.press(asked.messages()[0], ann)
    await raw.send("POST", callback(pressed), {"type": 7, "data": {"components": [row(button("a", label="Stop"))]}})
    assert not pressed.done()
    await raw.send("PATCH", original, {**PLAIN, "components": []})
    assert pressed.done()


async def test_suggestions_have_limits_and_three_seconds(lax: FakeDiscord, raw: RawClient) -> None:
    guild, ann = lax.guild("Alpha"), lax.user("ann")
    name = {"type": 3, "name": "name", "description": "Name", "autocomplete": True}
    body = [{"name": "switch", "description": "Switch", "options": [name], "type": 1}]
    assert (await raw.send("PUT", f"/applications/{lax.bot.id}/commands", body))[0] == 200
    asking = asyncio.create_task(lax.autocomplete(guild, ann, "switch", option="name", typed="a"))
    await lax.until(lambda: lax.rest.interactions)
    asked = next(iter(lax.rest.interactions.values()))
    assert asked.data["options"] == [{"name": "name", "type": 3, "value": "a", "focused": True}]
    for choice in ({"name": "x" * 101, "value": "x"}, {"name": "x", "value": "x" * 101}, {"name": "", "value": "x"}):
        assert await raw.code("POST", callback(asked), {"type": 8, "data": {"choices": [choice]}}) == 50035
    many = [{"name": str(number), "value": str(number)} for number in range(26)]
    assert await raw.code("POST", callback(asked), {"type": 8, "data": {"choices": many}}) == 50035
    assert await raw.code("POST", callback(asked), {"type": 8, "data": {"choices": many[:25]}}) == 0
    assert len(await asking) == 25
    with pytest.raises(TimeoutError):
        await lax.autocomplete(guild, ann, "switch", option="name", typed="b")


COMMAND = {"name": "a", "description": "A", "type": 1}
MENU = {"name": "A B", "type": 3}
STRING = {"type": 3, "name": "b", "description": "B"}
CHOICE = {"name": "A", "value": "a"}


@pytest.mark.parametrize(
    ("commands", "code"),
    [
        ([COMMAND, MENU, {**MENU, "type": 2}], 0),
        ([{**COMMAND, "name": "Upper"}], 50035),
        ([{**COMMAND, "name": "two words"}], 50035),
        ([{**COMMAND, "description": ""}], 50035),
        ([COMMAND, COMMAND], 50035),
        ([{**COMMAND, "description_localizations": {"ko": "가"}}, {**MENU, "name_localizations": {"ko": "나 다"}}], 0),
        ([{**COMMAND, "description_localizations": {"kr": "가"}}], 50035),
        ([{**COMMAND, "description_localizations": {"ko": "가" * 101}}], 50035),
        ([{**COMMAND, "options": [{**STRING, "choices": [{**CHOICE, "name_localizations": {"en": "A"}}]}]}], 50035),
        ([{"name": "A", "type": 3, "description": "no"}], 50035),
        ([{"name": f"m{number}", "type": 3} for number in range(16)], 30032),
        ([{"name": f"u{number}", "type": 2} for number in range(16)], 30032),
        ([{**COMMAND, "options": [STRING, {**STRING, "name": "c", "required": True}]}], 50035),
        ([{**COMMAND, "options": [STRING, STRING]}], 50035),
        ([{**COMMAND, "options": [STRING, {**STRING, "type": 1, "name": "c"}]}], 50035),
        ([{**COMMAND, "options": [{**STRING, "name": f"o{number}"} for number in range(26)]}], 50035),
        ([{**COMMAND, "options": [{**STRING, "name": f"o{n}", "description": "x" * 100, "choices": [
            {"name": "y" * 100, "value": f"{m}" * 100} for m in range(2)]} for n in range(17)]}], 50035),
    ],
)  # fmt: skip
async def test_commands_have_limits(lax: FakeDiscord, raw: RawClient, commands: list[Any], code: int) -> None:
    assert await raw.code("PUT", f"/applications/{lax.bot.id}/commands", commands) == code
