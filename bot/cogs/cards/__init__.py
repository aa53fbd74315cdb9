"""Character cards: import and export of personas."""
