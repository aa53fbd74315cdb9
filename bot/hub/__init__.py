"""Models of the Hugging Face hub: which are known, which fit this machine, and their files here."""
