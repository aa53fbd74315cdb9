"""Encodes dialogs as the prompts that a model was trained with, and parses its replies: reasoning and tool calls.

The model's own template makes the prompt, or a built-in format. Knows tokenizers; knows neither HTTP nor torch.
"""
