"""Llama inference: checkpoints, tokenizers, scheduler, ranks, kernels, and an OpenAI-compatible server. Knows no bot and no database."""
