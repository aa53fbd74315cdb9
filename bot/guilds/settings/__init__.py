"""Settings that guilds and members chose: cached, checked against the operator's limits, written to a file and read back."""
