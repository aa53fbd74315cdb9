"""The text of a PDF, read by a worker, or the reason why there is none."""

from __future__ import annotations

from bot.attachments import reasons
from bot.attachments.text import clean, cut_to_bytes, limit_lines
from bot.attachments.types import FileRefused, FileText
from bot.attachments.worker_process import WorkerFailed, run_worker

_WORKER = "bot.attachments.pdf_worker"
_SECONDS = 20.0
_REASONS = {
    "locked": reasons.PDF_LOCKED,
    "memory": reasons.PDF_TOO_BIG,
    "no text": reasons.PDF_NO_TEXT,
    "slow": reasons.PDF_TOO_SLOW,
}


async def read_pdf(name: str, data: bytes, max_bytes: int, *, seconds: float = _SECONDS) -> FileText:
    """The file's text, cut to `max_bytes` in UTF-8. Raises FileRefused."""
    try:
        answer = await run_worker(_WORKER, data, str(max_bytes), seconds=seconds, max_output=2 * max_bytes)
    except WorkerFailed as failed:
        raise FileRefused(reasons.PDF_TOO_SLOW if failed.timed_out else reasons.PDF_BROKEN) from None
    if answer.status != "ok":
        raise FileRefused(_REASONS.get(answer.status, reasons.PDF_BROKEN))
    text, too_long = cut_to_bytes(clean(answer.payload.decode("utf-8", "replace")).strip(), max_bytes)
    text, cut = limit_lines(text)
    pages = answer.numbers.get("pages")
    truncated = too_long or cut or answer.numbers.get("truncated") is True
    return FileText(name, text, truncated, pages if isinstance(pages, int) else 0)
