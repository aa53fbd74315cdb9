"""The Llama transformer, the loader of its weights, and their quantization on GPUs."""
