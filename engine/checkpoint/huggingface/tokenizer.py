"""Builds the tokenizer of a Hugging Face directory; several JSON files say which tokens are special."""

from pathlib import Path

from engine.checkpoint.chat_families import STOP_NAMES
from engine.checkpoint.chat_template import template_of_folder
from engine.checkpoint.files import ConfigReader, Json, is_listed, read_bytes, read_json
from engine.checkpoint.huggingface.added_tokens import added_tokens, with_added_tokens
from engine.checkpoint.huggingface.tokenizer_bos import adds_bos
from engine.checkpoint.spec import ChatFamily
from engine.errors import ConfigError
from engine.tokenizers.base import Tokenizer
from engine.tokenizers.sentencepiece import SentencePieceTokenizer
from engine.tokenizers.token_roles import CONTROL
from engine.tokenizers.tokenizer_json import from_tokenizer_json


class TokenizerFiles:
    """The directory's tokenizer files, for the model's spec and for its tokenizer. `config` is config.json."""

    def __init__(self, path: Path, config: ConfigReader) -> None:
        self._path, self._config = path, config
        self._settings = ConfigReader(path / "tokenizer_config.json", self._json("tokenizer_config.json"))
        self._special_tokens_map = self._json("special_tokens_map.json")
        self._tokenizer_json = self._json("tokenizer.json") if is_listed(path / "tokenizer.json") else None
        rows = config.integer("vocab_size")
        # Tokens beyond the weights cannot be used; padding tokens that a training script added often are.
        self._added = {i: piece for i, piece in added_tokens(path, self._settings).items() if i < rows}
        self.chat_template = template_of_folder(path, self._settings.values, self._special_tokens_map)
        self.template = self.chat_template.source if self.chat_template else None

    def _json(self, name: str) -> Json:
        """The content of a file of the directory, empty if there is none."""
        return read_json(self._path / name) if is_listed(self._path / name) else {}

    def added_token_names(self) -> set[str]:
        """The texts of the added tokens, control tokens among them."""
        names = {piece.text for piece in self._added.values()}
        if self._tokenizer_json is None:
            return {"<s>", "</s>", *names}
        return names | set(self._names_of_json().values())

    def _names_of_json(self) -> dict[int, str]:
        """The texts of the added tokens in tokenizer.json, by id."""
        added = (self._tokenizer_json or {}).get("added_tokens")
        entries = (
            [(t.get("id"), t.get("content")) for t in added if isinstance(t, dict)] if isinstance(added, list) else []
        )
        return {number: text for number, text in entries if isinstance(number, int) and isinstance(text, str)}

    def tokenizer(self, chat: ChatFamily) -> Tokenizer:
        """From tokenizer.json, else from tokenizer.model; ConfigError if neither is usable."""
        path = self._path / "tokenizer.json"
        if self._tokenizer_json is not None:
            bos = self._special_token("bos")
            return from_tokenizer_json(
                path,
                self._tokenizer_json,
                bos=bos,
                eos=self._special_token("eos"),
                stop_ids=self._stop_ids(),
                stop_names=STOP_NAMES[chat],
                more_added={i: (piece.text, piece.kind == CONTROL) for i, piece in self._added.items()},
                adds_bos=adds_bos(self._settings.values, self._tokenizer_json, bos),
            )
        model = self._path / "tokenizer.model"
        if is_listed(model):
            return self._sentencepiece(model, chat)
        raise ConfigError(self._path, expected="tokenizer.json in it", found="neither that nor tokenizer.model")

    def _sentencepiece(self, model: Path, chat: ChatFamily) -> Tokenizer:
        ids = {piece.text: i for i, piece in self._added.items()}
        eos = ids.get(self._special_text("eos") or "")
        return SentencePieceTokenizer(
            with_added_tokens(read_bytes(model), self._added, self._path),
            source=model,
            eos_id=eos,
            stop_ids=self._stop_ids() | {ids[name] for name in STOP_NAMES[chat] if name in ids},
            adds_bos=adds_bos(self._settings.values, None, None),
        )

    def _special_text(self, kind: str) -> str | None:
        """The text of the "bos" or "eos" token in tokenizer_config.json, or in special_tokens_map.json."""
        for values in (self._settings.values, self._special_tokens_map):
            value = values.get(f"{kind}_token")
            if isinstance(value, dict):
                value = value.get("content")
            if isinstance(value, str):
                return value
        return None

    def _special_token(self, kind: str) -> str | None:
        """The text of the "bos" or "eos" token: in the tokenizer's files by text, in config.json by id."""
        if (text := self._special_text(kind)) is not None:
            return text
        number = self._config.values.get(f"{kind}_token_id")
        number = number[0] if isinstance(number, list) and number else number
        if not isinstance(number, int):
            return None
        piece = self._added.get(number)
        return self._names_of_json().get(number, piece.text if piece else None)

    def _stop_ids(self) -> frozenset[int]:
        """Every end-of-text id in config.json and generation_config.json."""
        ids: set[int] = set()
        for values in (self._config.values, self._json("generation_config.json")):
            value = values.get("eos_token_id")
            found = value if isinstance(value, list) else [value]
            ids |= {i for i in found if isinstance(i, int) and not isinstance(i, bool)}
        return frozenset(i for i in ids if 0 <= i < self._config.integer("vocab_size"))
