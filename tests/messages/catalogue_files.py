"""Reads and writes catalogues so that a change of one text is a change of few lines."""

from __future__ import annotations

import io
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.pofile import read_po, write_po

HEADER = """\
msgid ""
msgstr ""
"Content-Type: text/plain; charset=utf-8\\n"
"Language: {language}\\n"
"Plural-Forms: {plurals}\\n"

"""
"""What a reader of catalogues needs; dates and names of a file's history are git's."""


def read(path: Path) -> Catalog:
    """The catalogue of the language that its file is named by."""
    with path.open("rb") as file:
        return read_po(file, locale=path.stem)


def write(path: Path, catalogue: Catalog) -> None:
    """Write it in the order of its texts, without line numbers and without texts that are used no more."""
    written = io.BytesIO()
    write_po(
        written, catalogue, width=120, sort_output=True, ignore_obsolete=True, include_lineno=False, omit_header=True
    )
    header = HEADER.format(language=path.stem, plurals=catalogue.plural_forms)
    path.write_text(header + written.getvalue().decode().lstrip("\n"), encoding="utf-8")


def missing(catalogue: Catalog) -> list[Message]:
    """The texts without a translation, or with one that is only a guess."""
    return [each for each in catalogue if each.id and (each.fuzzy or not _translated(each))]


def _translated(message: Message) -> bool:
    return all(message.string) if isinstance(message.string, list | tuple) else bool(message.string)
