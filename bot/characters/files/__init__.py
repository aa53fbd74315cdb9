"""The files that cards come in and go out in: PNG, JSON, CHARX."""
