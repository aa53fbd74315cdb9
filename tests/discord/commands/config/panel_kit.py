"""A panel of settings as its user handles it: what it shows, its buttons and menus, its forms."""

from __future__ import annotations

from typing import Any

from tests.discord.harness import World
from tests.fakes.discord.server import Interaction, Message, Place, User


def texts_in(components: Any) -> list[str]:
    """The texts of components, at any depth."""
    if isinstance(components, list):
        return [text for each in components for text in texts_in(each)]
    own = [components["content"]] if components.get("type") == 10 else []
    return own + texts_in(components.get("components", []))


def text_of(message: Message) -> str:
    """All texts of a panel."""
    return "\n".join(texts_in(message.components))


def ids(message: Message, what: str, name: str = "") -> list[str]:
    """The custom ids of the components that do this to this setting."""
    found = [each["custom_id"] for each in message.all_components() if not each.get("disabled")]
    return [each for each in found if each.split(":")[1] == what and name in ("", each.split(":")[3])]


async def opened(here: World, where: Place, user: User, command: str = "config panel") -> Message:
    """The panel that a command opens."""
    [panel] = (await here.use(where, user, command)).messages()
    assert panel.ephemeral
    return panel


async def press(here: World, panel: Message, user: User, what: str, name: str) -> None:
    """Press a button of a setting and wait for the panel that follows."""
    [custom_id] = ids(panel, what, name)
    await here.discord.press(panel, user, custom_id=custom_id)
    await here.discord.until(lambda: "Saved" in text_of(panel) and custom_id not in ids(panel, what, name))


async def choose(here: World, panel: Message, user: User, name: str, *values: Any) -> None:
    """Choose from the menu of a setting and wait for the panel that follows."""
    [custom_id] = ids(panel, "set", name)
    await here.discord.select(panel, user, *values, custom_id=custom_id)
    await here.discord.until(lambda: "Saved" in text_of(panel) and custom_id not in ids(panel, "set", name))


async def write(here: World, panel: Message, user: User, name: str, value: str) -> Interaction:
    """Fill in the form of a number."""
    [custom_id] = ids(panel, "open", name)
    form = await here.discord.press(panel, user, custom_id=custom_id)
    await here.discord.done(form)
    return await here.discord.submit(form, value=value)


async def refusal(here: World, used: Interaction) -> str:
    """The ephemeral answer to a press that changes nothing."""
    await here.discord.until(lambda: bool(used.messages()))
    [message] = used.messages()
    assert message.ephemeral
    return message.content
