"""Llama inference and its OpenAI-compatible server. Knows no bot and no database."""
