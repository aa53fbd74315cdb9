"""The vocabularies that checkpoints come with, each behind `engine.tokenizer.Tokenizer`."""
