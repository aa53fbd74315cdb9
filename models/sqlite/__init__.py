"""What SQLite needs beside SQLAlchemy: a driver that survives cancellation, the look at its file, and its DDL."""
