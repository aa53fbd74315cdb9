"""Character cards: read from files, told in a preview, put into prompts, written again. No Discord, no SQL."""
