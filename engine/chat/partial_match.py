"""Finds a mark that a stream of text may have cut: its first characters stand at the end. Knows no tokens."""


def partial_match(text: str, mark: str) -> int:
    """The length of the longest suffix of `text` that is a proper prefix of `mark`."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0
