"""Collects the texts that members read, and brings the catalogues of their translations up to date: `make messages`."""
