"""The bot's texts in the languages of its members: catalogues, and the language of the current interaction."""
