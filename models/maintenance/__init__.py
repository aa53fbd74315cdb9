"""What operators run on a database: cleanup, backup, copy, new encryption keys, vacuum."""
