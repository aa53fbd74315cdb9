"""Adds new texts to the catalogues, removes those that no code has, and lists what is to be translated."""

from __future__ import annotations

import sys

from tests.messages.catalogue_files import missing, read, write
from tests.messages.extraction import catalogue_files, template


def main() -> int:
    texts = template()
    left = 0
    for path in catalogue_files():
        catalogue = read(path)
        catalogue.update(texts, no_fuzzy_matching=True, update_header_comment=False, update_creation_date=False)
        write(path, catalogue)
        for message in missing(catalogue):
            left += 1
            print(f"{path.name}: {message.context or ''}: {message.id!r}")  # noqa: T201
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
