"""The files of a message or a command as plain values: what Discord says of them, all of it claims."""

from __future__ import annotations

from collections.abc import Sequence

import discord

from bot.attachments.types import OfferedFile


def offered_files(attachments: Sequence[discord.Attachment]) -> tuple[OfferedFile, ...]:
    """The attachments in their order, not yet loaded."""
    return tuple(
        OfferedFile(
            filename=_name(attachment),
            content_type=attachment.content_type,
            size=attachment.size,
            url=attachment.url,
            is_voice=attachment.is_voice_message(),
        )
        for attachment in attachments
    )


def _name(attachment: discord.Attachment) -> str:
    """The name as its sender knows it: Discord takes most characters out of `filename`, and keeps them in `title`."""
    if not attachment.title:
        return attachment.filename
    _, dot, suffix = attachment.filename.rpartition(".")
    return attachment.title + dot + suffix if dot else attachment.title
