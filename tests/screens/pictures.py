"""Writes the pictures of docs/screens: a channel as a user sees it, or the form that an interaction opened."""

from __future__ import annotations

from pathlib import Path

from tests.fakes.discord import render
from tests.fakes.discord.messages import Interaction
from tests.fakes.discord.state import Channel, User

FOLDER = Path(__file__).parents[2] / "docs" / "screens"


async def picture(channel: Channel, viewer: User, name: str) -> None:
    """Write one picture of a channel."""
    await render.screenshot(render.html(channel, viewer=viewer, width=760), FOLDER / f"{name}.png")


async def form_picture(opened: Interaction, name: str) -> None:
    """Write one picture of a form."""
    await render.screenshot(render.modal_html(opened), FOLDER / f"{name}.png")
