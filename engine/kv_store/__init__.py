"""Pages of the KV cache in sealed files, over a restart of the engine. It knows bytes, keys and files, no tensors."""
