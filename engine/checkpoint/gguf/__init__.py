"""GGUF files: the container, its quantized blocks, its tokenizer tables."""
