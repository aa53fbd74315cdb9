"""What can go wrong between this machine and the hub, each as one line that says what to do."""

from __future__ import annotations

import errno

from bot.errors import BotError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class HubError(BotError):
    """A model could not be fetched."""


def disk_error(error: OSError, folder: object) -> HubError:
    """A HubError for an error of the disk. The part file stays for the next attempt."""
    if error.errno in _NO_SPACE:
        return HubError(
            f"The disk is full ({folder}). What has come is kept: make room and pull again, or choose another folder "
            "with GUILDLLAMA_MODELS_DIR."
        )
    return HubError(
        f"{folder} cannot be written: {error.strerror or error}. GUILDLLAMA_MODELS_DIR names another folder."
    )
