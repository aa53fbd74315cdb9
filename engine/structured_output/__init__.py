"""Replies that must have a form: a JSON schema, a regular expression, or one of a few texts.

The form becomes a grammar over the tokenizer's bytes (llguidance), which says at each step which tokens may come. It
knows token ids and their bytes; it knows neither requests nor torch.
"""
