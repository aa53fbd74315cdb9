"""Settings that guilds and members chose: cached, checked against the operator's limits, as a file and back."""
