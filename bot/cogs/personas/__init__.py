"""/persona and /me persona."""
