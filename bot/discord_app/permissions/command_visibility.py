"""Where Discord offers a command, and to whom, unless an admin of the guild chose otherwise.

This hides commands and grants nothing: what a member may do is decided by `authorise`.
"""

from __future__ import annotations

import discord
from discord import app_commands

IN_GUILDS = app_commands.AppCommandContext(guild=True, dm_channel=False, private_channel=False)
BY_GUILDS = app_commands.AppInstallationType(guild=True, user=False)
"""Commands that a guild has only if it invited the bot itself; a user install is not enough."""
MANAGE_GUILD = discord.Permissions(manage_guild=True)
