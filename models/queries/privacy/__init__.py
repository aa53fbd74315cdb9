"""One person's own data: counted, exported, deleted; and who opted out of storage."""
