"""Structured output: replies that match a JSON schema or a regular expression, or are one of a few texts.

llguidance compiles a grammar over the tokenizer's bytes and says at each step which tokens may come next. Knows token
ids and their bytes; knows neither requests nor torch.
"""
