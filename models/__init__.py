"""SQLAlchemy tables, every query, and database maintenance. Knows nothing of Discord, HTTP or torch."""
