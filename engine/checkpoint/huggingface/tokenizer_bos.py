"""Whether a Hugging Face tokenizer puts the beginning-of-text token before plain text, from what its files say."""

from engine.checkpoint.files import Json


def adds_bos(settings: Json, tokenizer_json: Json | None, bos: str | None) -> bool:
    """As transformers does it: `add_bos_token` in tokenizer_config.json, else the post-processor of tokenizer.json.

    `settings` is tokenizer_config.json. Llama's tokenizer classes add it by default, whatever the post-processor says,
    and so does a bare SentencePiece model.
    """
    declared = settings.get("add_bos_token")
    if isinstance(declared, bool):
        return declared
    if tokenizer_json is None or str(settings.get("tokenizer_class")).startswith(("LlamaTokenizer", "CodeLlama")):
        return True
    return bos is not None and _begins_with(tokenizer_json.get("post_processor"), bos)


def _begins_with(processor: object, bos: str) -> bool:
    """Whether this post-processor, or one of a sequence, writes the token `bos` before a single text."""
    if not isinstance(processor, dict):
        return False
    steps, template = processor.get("processors"), processor.get("single")
    if isinstance(steps, list):
        return any(_begins_with(step, bos) for step in steps)
    if isinstance(template, list) and template and isinstance(template[0], dict):
        special = template[0].get("SpecialToken")
        return isinstance(special, dict) and special.get("id") == bos
    first = processor.get("cls")  # of BertProcessing and RobertaProcessing: a text and its id
    return isinstance(first, list) and bool(first) and first[0] == bos
