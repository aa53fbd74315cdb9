"""A picture as a model may have it, made by a worker, or the reason why there is none."""

from __future__ import annotations

from bot.attachments import reasons
from bot.attachments.types import FileRefused, ImageInput
from bot.attachments.worker_process import WorkerFailed, run_worker

_WORKER = "bot.attachments.image_worker"
_SECONDS = 20.0
_MAX_SIDE = 1024
_MAX_BYTES = 1 << 20
_MEDIA_TYPES = {"image/png", "image/jpeg"}


async def read_image(
    name: str,
    data: bytes,
    *,
    png_only: bool = False,
    still: bool = False,
    max_side: int = _MAX_SIDE,
    seconds: float = _SECONDS,
) -> ImageInput:
    """The picture, at most `max_side` pixels a side and 1 MiB, without metadata. Raises FileRefused.

    `png_only`: rather smaller than as a JPEG. `still`: an animation is refused.
    """
    arguments = (str(max_side), str(_MAX_BYTES), *(["png"] if png_only else []), *(["still"] if still else []))
    try:
        answer = await run_worker(_WORKER, data, *arguments, seconds=seconds, max_output=_MAX_BYTES)
    except WorkerFailed as failed:
        raise FileRefused(reasons.IMAGE_TOO_BIG if failed.timed_out else reasons.IMAGE_BROKEN) from None
    media_type = answer.numbers.get("media_type")
    if answer.status == "animated":
        raise FileRefused(reasons.IMAGE_MOVES)
    if answer.status in {"too big", "memory"}:
        raise FileRefused(reasons.IMAGE_TOO_BIG)
    if answer.status != "ok" or not isinstance(media_type, str) or media_type not in _MEDIA_TYPES:
        raise FileRefused(reasons.IMAGE_BROKEN)
    return ImageInput(name, media_type, answer.payload)
