"""Builds the tokenizer of a Hugging Face directory; several JSON files say which tokens are special."""

from pathlib import Path

from engine.checkpoint.families import STOP_NAMES
from engine.checkpoint.files import ConfigReader, Json, read_bytes, read_json
from engine.checkpoint.huggingface.added_tokens import added_tokens, with_added_tokens
from engine.checkpoint.huggingface.tokenizer_bos import adds_bos
from engine.checkpoint.spec import ChatFamily
from engine.errors import ConfigError
from engine.tokenizers.base import Tokenizer
from engine.tokenizers.sentencepiece import SentencePieceTokenizer
from engine.tokenizers.tokenizer_json import from_tokenizer_json


class TokenizerFiles:
    """The directory's tokenizer files, for the model's spec and for its tokenizer. `config` is config.json."""

    def __init__(self, path: Path, config: ConfigReader) -> None:
        self._path, self._config = path, config
        tokenizer_config = path / "tokenizer_config.json"
        values: Json = read_json(tokenizer_config) if tokenizer_config.is_file() else {}
        self._settings = ConfigReader(tokenizer_config, values)
        self.template = self._read_template()

    def _read_template(self) -> str | None:
        jinja = self._path / "chat_template.jinja"
        if jinja.is_file():
            return read_bytes(jinja).decode("utf-8", "replace")
        value = self._settings.values.get("chat_template")
        if isinstance(value, list):  # several named templates
            named = {str(t.get("name")): t.get("template") for t in value if isinstance(t, dict)}
            value = named.get("default")
        return value if isinstance(value, str) else None

    def added_token_names(self) -> set[str]:
        """The texts of the added tokens, control tokens among them."""
        path = self._path / "tokenizer.json"
        if not path.is_file():
            return {"<s>", "</s>", *(piece.text for piece in added_tokens(self._path, self._settings).values())}
        added = read_json(path).get("added_tokens")
        return {str(t.get("content")) for t in added if isinstance(t, dict)} if isinstance(added, list) else set()

    def tokenizer(self, chat: ChatFamily) -> Tokenizer:
        """From tokenizer.json, else from tokenizer.model; ConfigError if neither is usable."""
        path = self._path / "tokenizer.json"
        if path.is_file():
            bos = self._special_token("bos")
            return from_tokenizer_json(
                path,
                bos=bos,
                eos=self._special_token("eos"),
                stop_ids=self._stop_ids(),
                stop_names=STOP_NAMES[chat],
                adds_bos=adds_bos(self._settings.values, read_json(path), bos),
            )
        model = self._path / "tokenizer.model"
        if model.is_file():
            return self._sentencepiece(model, chat)
        raise ConfigError(self._path, expected="tokenizer.json in it", found="neither that nor tokenizer.model")

    def _sentencepiece(self, model: Path, chat: ChatFamily) -> Tokenizer:
        added = added_tokens(self._path, self._settings)
        ids = {piece.text: i for i, piece in added.items()}
        eos = ids.get(self._special_text("eos") or "")
        return SentencePieceTokenizer(
            with_added_tokens(read_bytes(model), added, self._path),
            source=model,
            eos_id=eos,
            stop_ids=self._stop_ids() | {ids[name] for name in STOP_NAMES[chat] if name in ids},
            adds_bos=adds_bos(self._settings.values, None, None),
        )

    def _special_text(self, kind: str) -> str | None:
        """The text of the "bos" or "eos" token in tokenizer_config.json."""
        value = self._settings.values.get(f"{kind}_token")
        if isinstance(value, dict):
            value = value.get("content")
        return value if isinstance(value, str) else None

    def _special_token(self, kind: str) -> str | None:
        """The text of the "bos" or "eos" token: in tokenizer_config.json by text, in config.json by id."""
        if (text := self._special_text(kind)) is not None:
            return text
        number = self._config.values.get(f"{kind}_token_id")
        number = number[0] if isinstance(number, list) and number else number
        added = read_json(self._path / "tokenizer.json").get("added_tokens")
        names = {t.get("id"): t.get("content") for t in added if isinstance(t, dict)} if isinstance(added, list) else {}
        name = names.get(number)
        return name if isinstance(name, str) else None

    def _stop_ids(self) -> frozenset[int]:
        """Every end-of-text id in config.json and generation_config.json."""
        generation = self._path / "generation_config.json"
        ids: set[int] = set()
        for values in (self._config.values, read_json(generation) if generation.is_file() else {}):
            value = values.get("eos_token_id")
            ids |= {i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)}
        return frozenset(ids)
