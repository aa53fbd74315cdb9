"""What pages show, as values. Only `live` knows HTTP, and only `kept_figures` the database."""
