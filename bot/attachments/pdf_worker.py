"""Reads the text of one PDF: `python -m bot.attachments.pdf_worker MAX_BYTES`, the file on stdin, the text on stdout.

Only ever started by bot.attachments.pdf, never imported. Everything that pypdf does with a stranger's file happens
within the limits of this process.
"""

from __future__ import annotations

import io
import sys
import time

from bot.attachments.worker import Result, limit_resources, serve

MEMORY = 512 << 20
CPU_SECONDS = 12
_READING_SECONDS = 8.0
"""After this much CPU time the pages read so far are the answer, if there is text on them."""
_MAX_PAGES = 2000


def read_pdf(data: bytes, max_bytes: int) -> Result:
    """The text of the pages, each after a line with its number, until there is enough of it."""
    import pypdf  # after the limits are set

    try:
        reader = pypdf.PdfReader(io.BytesIO(data), strict=False)
        # Many are encrypted with an empty password, only to forbid printing.
        if reader.is_encrypted and not reader.decrypt(""):
            return Result("locked")
        num_pages = len(reader.pages)
    except pypdf.errors.LimitReachedError:
        return Result("memory")
    except (pypdf.errors.DependencyError, pypdf.errors.FileNotDecryptedError):
        return Result("locked")
    parts: list[str] = []
    size, has_text, truncated = 0, False, False
    failures: list[str] = []
    for number in range(num_pages):
        slow = time.process_time() > _READING_SECONDS
        if number >= _MAX_PAGES or size > max_bytes or slow:
            truncated = True
            failures += ["slow"] if slow else []
            break
        try:
            text = reader.pages[number].extract_text().strip()
        except (MemoryError, pypdf.errors.LimitReachedError):
            failures.append("memory")
            continue
        except Exception:  # a damaged page must not cost the others
            failures.append("broken")
            continue
        has_text = has_text or bool(text)
        parts.append(f"[Page {number + 1}]\n{text}" if num_pages > 1 else text)
        size += len(parts[-1].encode("utf-8", "replace"))
    if not has_text:
        return Result(failures[0] if failures else "no text")
    payload = "\n\n".join(parts).encode("utf-8", "replace")[: 2 * max_bytes]
    return Result("ok", {"pages": num_pages, "truncated": truncated or bool(failures)}, payload)


if __name__ == "__main__":
    limit_resources(memory=MEMORY, cpu_seconds=CPU_SECONDS)
    max_text_bytes = int(sys.argv[1])
    serve(lambda data: read_pdf(data, max_text_bytes))
