"""Attention over the paged cache: decode, prompts in chunks, split over the context, quantized keys and values."""
