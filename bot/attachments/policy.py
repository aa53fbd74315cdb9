"""Decides what is read, before a byte is loaded and again when the bytes are there. Pure functions."""

from __future__ import annotations

from bot.attachments import reasons
from bot.attachments.kinds import Kind, declared_kind, sniff
from bot.attachments.types import FileLimits, FileRefused, OfferedFile


def check_offer(offer: OfferedFile, limits: FileLimits, *, images_allowed: bool) -> None:
    """Raise FileRefused for what need not be loaded to be refused.

    A declared type refuses only what is too large to look into: `.ts` is declared a video, and often is TypeScript.
    """
    if offer.is_voice:
        raise FileRefused(reasons.VOICE)
    if offer.size == 0:
        raise FileRefused(reasons.EMPTY)
    declared = declared_kind(offer.content_type)
    if offer.size > limits.max_raw_bytes:
        refused = reasons.of_kind(declared, images_allowed=images_allowed)
        raise FileRefused(refused or reasons.too_large(offer.size, size_limit(declared, limits)))
    is_text = (offer.content_type or "").lower().startswith(("text/", "application/json"))
    if is_text and offer.size > limits.max_text_bytes:
        raise FileRefused(reasons.too_large(offer.size, limits.max_text_bytes))


def check_head(head: bytes, *, images_allowed: bool) -> Kind:
    """The kind of the file that begins so. Raises FileRefused for a kind that is not read."""
    kind = sniff(head)
    if refused := reasons.of_kind(kind, images_allowed=images_allowed):
        raise FileRefused(refused)
    return kind


def size_limit(kind: Kind, limits: FileLimits) -> int:
    """How many bytes a file of this kind may have."""
    return limits.max_raw_bytes if kind in {"pdf", "image"} else limits.max_text_bytes
