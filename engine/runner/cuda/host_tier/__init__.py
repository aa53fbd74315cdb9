"""The host tier of a GPU: pinned slots, and copies beside the steps."""
