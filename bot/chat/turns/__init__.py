"""How turns and what is shown of them are stored, and kept for later while the database is away."""
