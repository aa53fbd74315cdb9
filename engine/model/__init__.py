"""The transformer of all families, the loader of its weights, and their quantization on GPUs."""
