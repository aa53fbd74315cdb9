"""The pages of the KV cache: who holds them, which prefixes they have, and what of them is in the host's memory."""
