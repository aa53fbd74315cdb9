"""Writes measurements as JSON lines to standard output."""

import datetime
import json
import sys


def today() -> str:
    """Today's date, UTC, in ISO format."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def emit(line: dict[str, object]) -> None:
    """Write one JSON line."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
