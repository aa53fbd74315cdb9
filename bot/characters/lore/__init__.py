"""The lorebook of a card: its entries, and which of them belong to a message."""
