"""Hugging Face directories: safetensors, config.json and the tokenizer files."""
