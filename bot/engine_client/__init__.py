"""The client of an OpenAI-compatible server. Knows neither dialogs nor Discord."""
