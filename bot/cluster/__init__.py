"""Several processes of one application: which of them leads, and which of them has which shards."""
