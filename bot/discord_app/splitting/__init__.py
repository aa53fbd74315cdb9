"""A text as messages of Discord: where it is cut, which code block goes on, what becomes a file."""
