"""The transformer, its weights and their quantization."""
