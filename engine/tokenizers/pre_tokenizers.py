"""How byte-level BPE splits text into words, within which merges happen, by GGUF's names (`tokenizer.ggml.pre`).

A wrong splitting gives other ids without an error, so there is no default: a vocabulary without a name is recognised by
its own tokens, or refused. The patterns are from the models' own tokenizer.json, and the table has only names whose
pattern is known exactly. Knows no merges and no control tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Split

from engine.errors import ConfigError

# Llama 3's words (Meta's `pat_str`). Qwen 2's differ in the length of numbers.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
# Tekken, of Mistral Nemo and later: words also end where a small letter is followed by a capital.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN_PATTERN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# GPT-4o, gpt-oss, Llama 4 and Phi-4-mini: as Tekken, with English contractions at the end of a word.
_CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O_PATTERN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# DeepSeek splits in steps. The first models list the letters of alphabets that have capitals.
_CASED_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbeῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥ"
    "ῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
_EAST_ASIAN = "[一-龥ࠀ-一가-퟿]+"
_DEEPSEEK_LLM = ("[\r\n]", rf"\s?[{_CASED_LETTERS}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", _EAST_ASIAN)
_DEEPSEEK_CODER = ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _EAST_ASIAN)
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)


@dataclass(frozen=True, slots=True)
class PreTokenization:
    """`ignore_merges`: a word that is itself a token is encoded as that token, without merges.

    `adds_bos`: the models' habit, for files without that setting.
    """

    splitter: PreTokenizer
    ignore_merges: bool = False
    adds_bos: bool = False
    normalizer: Normalizer | None = None


def _pattern(*patterns: str, digits: bool = False) -> PreTokenizer:
    """Split by each of the patterns in turn; `digits`: then each digit apart."""
    splits: list[PreTokenizer] = [Split(Regex(pattern), "isolated") for pattern in patterns]
    if digits:
        splits.append(Digits(individual_digits=True))
    return pre_tokenizers.Sequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])


def _gpt2() -> PreTokenization:
    return PreTokenization(ByteLevel(add_prefix_space=False))


def _digits() -> PreTokenization:
    """GPT-2's words, with each digit apart."""
    return PreTokenization(pre_tokenizers.Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]))


def _llama3() -> PreTokenization:
    return PreTokenization(_pattern(LLAMA3_PATTERN), ignore_merges=True, adds_bos=True)


def _llama3_merging() -> PreTokenization:
    """Llama 3's words in tokenizers that always merge."""
    return PreTokenization(_pattern(LLAMA3_PATTERN))


def _qwen2() -> PreTokenization:
    return PreTokenization(_pattern(_QWEN2_PATTERN), normalizer=normalizers.NFC())


def _tekken() -> PreTokenization:
    return PreTokenization(_pattern(_TEKKEN_PATTERN), ignore_merges=True, adds_bos=True)


def _gpt4o() -> PreTokenization:
    return PreTokenization(_pattern(_GPT4O_PATTERN))


def _deepseek_llm() -> PreTokenization:
    return PreTokenization(_pattern(*_DEEPSEEK_LLM, digits=True))


def _deepseek_coder() -> PreTokenization:
    return PreTokenization(_pattern(*_DEEPSEEK_CODER, digits=True))


def _deepseek_v3() -> PreTokenization:
    return PreTokenization(_pattern(*_DEEPSEEK_V3))


_NAMED: dict[str, Callable[[], PreTokenization]] = {
    **dict.fromkeys(("gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jais"), _gpt2),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r", "codeshell"), _digits),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "falcon3"), _llama3),
    **dict.fromkeys(("smaug-bpe", "dbrx"), _llama3_merging),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _qwen2),
    "tekken": _tekken,
    **dict.fromkeys(("gpt-4o", "llama4"), _gpt4o),
    "deepseek-llm": _deepseek_llm,
    "deepseek-coder": _deepseek_coder,
    "deepseek-v3": _deepseek_v3,
}
_UNNAMED = ("", "default")  # converters write these if they do not know the name


def pre_tokenization(name: str | None, tokens: Sequence[str], source: str | Path) -> PreTokenization:
    """The splitting of that name, or that of the vocabulary if the file names none; ConfigError if unknown."""
    if name is None or name in _UNNAMED:
        recognised = _recognised(tokens)
        if recognised is None:
            raise ConfigError(
                source,
                expected="tokenizer.ggml.pre, or the vocabulary of Llama 3, SmolLM or GPT-2",
                found=f"{name or 'neither'}; convert the model again with a current llama.cpp, "
                "or serve its Hugging Face files",
            )
        name = recognised
    if name not in _NAMED:
        raise ConfigError(
            source,
            expected=f"one of the pre-tokenizers {', '.join(_NAMED)}",
            found=f"{name}; serve the model's Hugging Face files instead, whose tokenizer.json has its own",
        )
    return _NAMED[name]()


def _recognised(tokens: Sequence[str]) -> str | None:
    """The pre-tokenizer of the vocabularies that files without its name have, by tokens that only they have.

    Llama 3's control tokens are in its base models too, and fine-tunes only rename reserved ones.
    """
    names = set(tokens)
    if "<|begin_of_text|>" in names and not names.isdisjoint(("<|start_header_id|>", "<|eot_id|>")):
        return "llama-bpe"  # not Llama 4, whose marks are others
    if "<|endoftext|>" in names and {"<gh_stars>", "<issue_start>", "<jupyter_start>"} <= names:
        return "smollm"  # and StarCoder, from which SmolLM has its control tokens: the same splitting
    if len(tokens) > 50256 and (tokens[262], tokens[50256]) == ("\u0120the", "<|endoftext|>"):
        return "gpt-2"
    return None
