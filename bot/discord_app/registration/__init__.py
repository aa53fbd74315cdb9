"""The registration of the commands with Discord, and their texts in the languages of its clients."""
