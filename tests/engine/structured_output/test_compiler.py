"""Grammars over real vocabularies: they allow the texts that `jsonschema` and `re` accept."""

import json
import random
import re
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from engine.checkpoint import DEFAULT_MODEL, open_checkpoint
from engine.logits_params import ConstraintFailed
from engine.structured_output.compiler import MAX_GRAMMAR_BYTES, GrammarCompiler, GrammarError, GrammarMatcher
from engine.structured_output.grammar import GrammarSpec
from engine.tokenizers.base import Tokenizer

GOLDEN = Path(__file__).parents[2] / "golden"
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "안녕"]}, "maxItems": 3},
        "boss": {"anyOf": [{"$ref": "#/$defs/name"}, {"type": "null"}]},
    },
    "$defs": {"name": {"type": "string", "pattern": "^[A-Z][a-z]{0,5}$"}},
    "required": ["name", "age", "tags", "boss"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module", params=["smollm2", "llama2-tiny"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    """Byte-level BPE, and SentencePiece with its leading spaces and byte tokens."""
    return open_checkpoint(DEFAULT_MODEL if request.param == "smollm2" else GOLDEN / request.param).tokenizer()


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    return GrammarCompiler(tokenizer, tokenizer.stop_ids)


def allowed(matcher: GrammarMatcher, vocab_size: int) -> list[int]:
    mask = matcher.mask()
    return [token_id for token_id in range(vocab_size) if mask[token_id // 8] >> token_id % 8 & 1]


def say_anything(matcher: GrammarMatcher, tokenizer: Tokenizer, seed: int) -> str:
    """A text of tokens that are chosen at random among those that may come; ends as soon as it may."""
    rng, ids = random.Random(seed), list[int]()
    for _ in range(400):
        choices = allowed(matcher, tokenizer.vocab_size)
        assert choices, "nothing may come"
        if tokenizer.stop_ids.intersection(choices):
            break
        # Quotation marks and brackets more often, so that strings and objects come to an end.
        ends = [token_id for token_id in choices if set(_text(tokenizer, token_id)) & set('"}]')]
        ids.append(rng.choice(ends if ends and rng.random() < 0.5 else choices))
        if matcher.accept(ids[-1]):
            break
    return tokenizer.decode(ids)


def _text(tokenizer: Tokenizer, token_id: int) -> str:
    piece = tokenizer.piece(token_id)
    return piece.decode(errors="replace") if isinstance(piece, bytes) else piece


@pytest.mark.parametrize(
    "schema",
    [PERSON, {"type": "object"}, {"type": "array", "items": {"type": "number"}, "minItems": 2}, {"const": {"a": [1]}}],
    ids=["person", "any object", "numbers", "constant"],
)
def test_whatever_may_be_said_follows_the_schema(
    compiler: GrammarCompiler, tokenizer: Tokenizer, schema: dict[str, Any]
) -> None:
    ended = 0
    for seed in range(4):
        text = say_anything(compiler.compile(GrammarSpec.of_schema(schema)), tokenizer, seed)
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            continue  # 400 tokens were not enough
        ended += 1
        jsonschema.validate(value, schema)
    assert ended >= 2


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('{"name": "Ann", "age": 7, "tags": ["안녕", "a"], "boss": null}', True),
        ('{"name":"Ann","age":7,"tags":[],"boss":"Bob"}', True),
        ('{\n  "name": "é\\n😀",\n  "age": 150,\n  "tags": [],\n  "boss": null\n}', True),
        ('{"name": "Ann", "age": 151, "tags": [], "boss": null}', False),
        ('{"name": "Ann", "age": 7, "tags": ["c"], "boss": null}', False),
        ('{"name": "Ann", "age": 7, "tags": [], "boss": "bob"}', False),
        ('{"name": "Ann", "age": 7, "tags": [], "boss": null, "more": 1}', False),
        ('{"name": "Ann", "age": 7, "tags": []}', False),
        ('Sure! {"name": "Ann"', False),
        ('{\n\n\n\n"name"', False),
    ],
)
def test_a_text_is_taken_exactly_if_it_fits(
    compiler: GrammarCompiler, tokenizer: Tokenizer, text: str, fits: bool
) -> None:
    matcher = compiler.compile(GrammarSpec.of_schema(PERSON))
    took = _takes(matcher, tokenizer, text)
    assert took == fits
    if fits:
        jsonschema.validate(json.loads(text), PERSON)


def _takes(matcher: GrammarMatcher, tokenizer: Tokenizer, text: str) -> bool:
    """Byte by byte: a model may write a text in other tokens than the tokenizer would."""
    try:
        for byte in text.encode():
            matcher.accept(_token_of(tokenizer, bytes([byte])))
    except ConstraintFailed:
        return False
    return bool(tokenizer.stop_ids.intersection(allowed(matcher, tokenizer.vocab_size)))


def _token_of(tokenizer: Tokenizer, data: bytes) -> int:
    return next(token_id for token_id in range(tokenizer.vocab_size) if _bytes(tokenizer, token_id) == data)


def _bytes(tokenizer: Tokenizer, token_id: int) -> bytes:
    piece = tokenizer.piece(token_id)
    return piece.encode() if isinstance(piece, str) else piece


def test_control_tokens_and_early_ends_are_never_allowed(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    matcher = compiler.compile(GrammarSpec.of_schema(PERSON))
    controls = {token_id for token_id in range(tokenizer.vocab_size) if not tokenizer.piece(token_id)}
    for token in '{"name": "a':
        assert not controls.intersection(allowed(matcher, tokenizer.vocab_size))
        matcher.accept(_token_of(tokenizer, token.encode()))


def test_patterns_and_choices(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    pattern = r"[0-9]{4}-(0[1-9]|1[0-2])"
    for seed in range(3):
        assert re.fullmatch(pattern, say_anything(compiler.compile(GrammarSpec("regex", pattern)), tokenizer, seed))
    texts = ["yes.", "no (or not)", "예"]
    said = {
        say_anything(compiler.compile(GrammarSpec("choice", json.dumps(texts))), tokenizer, seed) for seed in range(12)
    }
    assert said == {*texts}


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "object", "unevaluatedItems": False}, "unevaluatedItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"$ref": "http://example.com/schema"}, "http://example.com/schema"),
        ({"$ref": "#/$defs/missing"}, "missing"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "format": "nonsense"}, "nonsense"),
        ({"type": "unknown"}, "unknown"),
        ({"type": "string", "x-guidance": {"lenient": True}, "not": {}}, "not"),
        ({"enum": ["x" * 100 + str(number) for number in range(1000)]}, str(MAX_GRAMMAR_BYTES)),
    ],
)
def test_attack_what_cannot_be_kept_is_refused_in_one_line(
    compiler: GrammarCompiler, schema: dict[str, Any], reason: str
) -> None:
    with pytest.raises(GrammarError, match=re.escape(reason)) as caught:
        compiler.compile(GrammarSpec.of_schema(schema))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_schema_may_have_options_of_its_own(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    """`coerce_one_of`, which llguidance's refusal of `oneOf` names; the space between tokens stays bounded."""
    options = {"coerce_one_of": True, "whitespace_pattern": "x"}
    bits = {"type": "array", "items": {"type": "boolean"}, "minItems": 2}
    schema = {"oneOf": [{**bits, "maxItems": n} for n in (2, 3)], "x-guidance": options}
    for seed in range(4):
        said = json.loads(say_anything(compiler.compile(GrammarSpec.of_schema(schema)), tokenizer, seed))
        assert [type(bit) for bit in said] in ([bool] * 2, [bool] * 3)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
        {"type": "string", "pattern": "((a{1,500}){1,500}){1,500}"},
        {"type": "string", "pattern": "(.*a.*b.*c.*d.*e.*f.*){1,60}"},
        {"type": "array", "items": {"type": "integer"}, "minItems": 10**6, "maxItems": 10**6},
        {"type": "string", "minLength": 10**6},
        {"enum": ["x" * 20 + str(number) for number in range(2000)]},
        {"anyOf": [{"type": "object", "properties": {f"p{n}{m}": {} for m in range(40)}} for n in range(40)]},
        {"allOf": [{"properties": {f"p{n}": {"type": "string"}}} for n in range(300)]},
        nested(150),
    ],
    ids=["circle", "powers", "wild cards", "length", "string", "enum", "any of", "all of", "depth"],
)
def test_attack_a_hard_schema_is_refused_or_kept_in_bounded_time(
    compiler: GrammarCompiler, tokenizer: Tokenizer, schema: dict[str, Any]
) -> None:
    started, slowest = time.thread_time(), 0.0
    try:
        matcher = compiler.compile(GrammarSpec.of_schema(schema))
        rng = random.Random(0)
        for _ in range(30):
            choices = allowed(matcher, tokenizer.vocab_size)
            began = time.thread_time()
            if not choices or matcher.accept(rng.choice(choices)):
                break
            matcher.mask()
            slowest = max(slowest, time.thread_time() - began)
    except (GrammarError, ConstraintFailed):
        pass
    assert time.thread_time() - started < 10
    assert slowest < 1
