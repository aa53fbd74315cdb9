"""The vocabularies that checkpoints come with, each behind `engine.tokenizers.base.Tokenizer`."""
