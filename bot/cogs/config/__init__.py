"""/config: the settings of a guild."""
