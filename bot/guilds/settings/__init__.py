"""What guilds and members chose for themselves: kept at hand, checked, within the limits of the operator, as a file."""
