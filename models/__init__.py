"""SQLAlchemy tables and every query. Knows nothing of Discord, of HTTP or of torch."""
