"""The pool of KV pages and the exact trie of what they hold. (Being written.)"""


class Hold:
    """The pages of one request."""
