"""Where a model's chat template is found, and what is made of it."""

import json
from pathlib import Path

import pytest

from engine.chat.chat_format import choose_format
from engine.checkpoint import open_checkpoint
from engine.checkpoint.chat_template import StoredTemplate, template_of_gguf
from engine.checkpoint.gguf.container import read_gguf
from engine.errors import ConfigError
from engine.server.inspect_checkpoint import make_report, report
from tests.engine.checkpoint import vocabularies as v
from tests.engine.checkpoint.builders import (
    GOLDEN,
    Tiny,
    add_byte_vocabulary,
    finish_gguf,
    gguf_writer,
    write_huggingface,
)

ONE = "{% for m in messages %}{{ 'one ' + m.content }}{% endfor %}"
TWO = "{% for m in messages %}{{ 'two ' + m.content }}{% endfor %}"
ENDS = {"bos_token": {"content": "<s>"}, "eos_token": "</s>"}


def folder(path: Path, **settings: object) -> Path:
    folder = write_huggingface(path, Tiny())
    (folder / "tokenizer_config.json").write_text(json.dumps(ENDS | settings))
    return folder


def stored(path: Path) -> StoredTemplate:
    template = open_checkpoint(path).spec.chat_template
    assert template is not None
    return template


def test_in_tokenizer_config(tmp_path: Path) -> None:
    template = stored(folder(tmp_path, chat_template=ONE))
    assert (template.source, template.origin, template.with_tools) == (ONE, "tokenizer_config.json", None)
    assert template.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


def test_several_named_ones(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": TWO}, {"name": "default", "template": ONE}]
    template = stored(folder(tmp_path, chat_template=named))
    assert (template.source, template.with_tools) == (ONE, TWO)


def test_files_of_their_own(tmp_path: Path) -> None:
    path = folder(tmp_path)
    assert open_checkpoint(path).spec.chat_template is None
    (path / "chat_template.json").write_text(json.dumps({"chat_template": ONE}))
    assert (stored(path).source, stored(path).origin) == (ONE, "chat_template.json")
    (path / "chat_template.jinja").write_text(TWO)
    assert (stored(path).source, stored(path).origin) == (TWO, "chat_template.jinja")
    (path / "additional_chat_templates").mkdir()
    (path / "additional_chat_templates" / "tool_use.jinja").write_text(ONE)
    assert stored(path).with_tools == ONE


def test_in_a_gguf_file(tmp_path: Path) -> None:
    writer = gguf_writer(tmp_path / "m.gguf", Tiny())
    add_byte_vocabulary(writer, Tiny().vocab_size)
    writer.add_chat_template([{"name": "default", "template": ONE}, {"name": "tool_use", "template": TWO}])
    finish_gguf(writer)
    template = template_of_gguf(read_gguf(tmp_path / "m.gguf").metadata)
    assert template is not None
    assert (template.source, template.with_tools, template.origin) == (ONE, TWO, "tokenizer.chat_template")


@pytest.mark.parametrize("value", [5, "", [], [5], [{"name": "rag", "template": ONE}], {"default": ONE}])
def test_values_that_are_no_template(tmp_path: Path, value: object) -> None:
    checkpoint = open_checkpoint(folder(tmp_path, chat_template=value))
    assert checkpoint.spec.chat_template is None
    chosen = choose_format(checkpoint.spec, checkpoint.tokenizer())
    assert chosen.description == "the built-in format llama2, since its files have no template"


def test_inspect_builds_and_names_the_template(tmp_path: Path) -> None:
    path = folder(tmp_path / "model", chat_template=ONE)
    assert make_report(open_checkpoint(path), 1).chat_template == "the template of the model's tokenizer_config.json"
    assert "dialogs     by the template of the model's tokenizer_config.json\n" in report(path)
    other = tmp_path / "other.jinja"
    other.write_text(TWO)
    assert f"the template of --chat-template {other}" in report(path, template_file=str(other))
    assert "llama2, since its files have no template" in report(GOLDEN / "llama2-tiny")
    broken = folder(tmp_path / "broken", chat_template="{{ messages[99].content.x }}")
    with pytest.raises(ConfigError, match=r"the model's tokenizer_config.json: .*; --chat-template FILE"):
        report(broken)


def test_another_template_replaces_the_models_own(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(folder(tmp_path / "model", chat_template=ONE))
    other = tmp_path / "other.jinja"
    other.write_text("{{ bos_token }}" + TWO)
    chosen = choose_format(checkpoint.spec, checkpoint.tokenizer(), other)
    ids = chosen.format.encode([{"role": "user", "content": "hi"}])
    assert ids == [1, *v.golden_sentencepiece().encode("two hi")]
