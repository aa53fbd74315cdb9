"""`guildllama doctor`: one file a part of what it checks, each a function that yields findings. Changes nothing."""
