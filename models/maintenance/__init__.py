"""Database maintenance for operators: cleanup, backup and restore, copy, key rotation, vacuum."""
