"""Templates come with models, so they are untrusted: what would compute for long, grow, or look around is refused."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from engine.chat.chat_format import choose_format
from engine.chat.formats import Message
from engine.chat.template import BrokenTemplateError, ChatTemplate
from engine.chat.templated import TemplatedFormat
from engine.checkpoint import ModelSpec, open_checkpoint
from engine.checkpoint.chat_template import StoredTemplate
from engine.errors import ConfigError, InvalidDialog
from tests.engine.chat.template_shapes import source
from tests.engine.chat.vocabulary import vocabulary

USER: list[Message] = [{"role": "user", "content": "hello"}]
_LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% set x = a + b %}{% endfor %}{% endfor %}"
_MACRO = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}"
_DOUBLE = "{% set ns = namespace(t='x') %}{% for a in range(99) %}{% set ns.t = ns.t + ns.t %}{% endfor %}"
_LISTS = "{% set ns = namespace(t=[1]) %}{% for a in range(99) %}{% set ns.t = ns.t + ns.t %}{% endfor %}"
_NESTED = "{% set ns = namespace(t=[1]) %}{% for a in range(99) %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}{{ ns.t }}"
_NUMBER = "{% set ns = namespace(t=9) %}{% for a in range(99) %}{% set ns.t = ns.t * ns.t %}{% endfor %}"
_QUOTED = "{% set ns = namespace(t='\"') %}{% for a in range(99) %}{% set ns.t = ns.t | tojson %}{% endfor %}"
HOSTILE = {
    "endless loop": (_LOOP, "too many steps|for too long"),
    "deep recursion": (_MACRO, "too deeply|too many steps"),
    "doubled text": (_DOUBLE, "too much text"),
    "doubled list": (_LISTS, "hold too much"),
    "nested lists": (_NESTED, "nested too deeply|hold too much"),
    "squared number": (_NUMBER, "numbers are too large"),
    "quoted quotes": (_QUOTED, "too much text|too many steps"),
    "repeated text": ("{{ 'x' * 999999999 }}", "too much text"),
    "repeated list": ("{{ [0] * 999999999 }}", "too many steps|hold too much"),
    "power": ("{{ 9 ** 99999999 }}", "numbers are too large"),
    "wide field": ("{{ '%999999999d' % 1 }}", "fields are too wide"),
    "wide format": ("{{ '{:999999999}'.format(1) }}", "fields are too wide"),
    "centered": ("{{ 'x' | center(999999999) }}", "fields are too wide"),
    "indented": ("{{ 'x' | indent(999999999) }}", "fields are too wide"),
    "wide date": ("{{ strftime_now('%999999999d') }}", "date is too long"),
    "long range": ("{{ range(1000000000) | list | length }}", "loops are too long"),
    "replaced": ("{{ ('a' * 100000).replace('a', 'b' * 100000) }}", "too much text"),
    "joined": ("{{ range(90000) | join('x' * 10000) }}", "too much text"),
    "class": ("{{ ''.__class__.__mro__ }}", "UndefinedError|SecurityError"),
    "class by filter": ("{{ ('' | attr('__class__')).__mro__ }}", "UndefinedError|SecurityError"),
    "class by item": ("{{ messages['__class__'].__mro__ }}", "UndefinedError|SecurityError"),
    "format of attributes": ("{{ '{0.__class__}'.format(messages) }}", "unusual way"),
    "map of attributes": (
        "{{ messages | map(attribute='__class__') | list }}",
        "writes a Undefined|SecurityErr",
    ),
    "globals": ("{{ raise_exception.__globals__['x'] }}", "UndefinedError|SecurityError"),
    "cycler": ("{{ cycler.__init__.__globals__.os }}", "UndefinedError|SecurityError"),
    "changed messages": ("{{ messages.append(1) }}", "SecurityError"),
    "an import": ("{% include '/etc/passwd' %}", "."),
    "syntax": ("{% for m in messages %}", "line 1"),
    "long": ("{{ messages }}" + "x" * 10_000_000, "more than 262,144 characters"),
    "deeply nested": ("{{ " + "(" * 5000 + "messages" + ")" * 5000 + " }}", "."),
    "many blocks": ("{% if messages %}" * 500 + "{% endif %}" * 500, "."),
    "refuses everything": ("{{ raise_exception('no ' ~ messages) }}", "refuses a message of the user"),
    "leaves the user out": ("{% for m in messages %}x{% endfor %}", "leaves out the message"),
}


@pytest.fixture(scope="module")
def spec() -> ModelSpec:
    return open_checkpoint("smollm2").spec


@pytest.mark.parametrize("name", HOSTILE)
def test_the_start_is_refused_in_one_line(name: str, spec: ModelSpec) -> None:
    body, reason = HOSTILE[name]
    template = body if "messages" in body else f"{{% set m = messages %}}{body}"
    started = time.thread_time()
    with pytest.raises(ConfigError, match=reason) as caught:
        choose_format(replace(spec, chat_template=StoredTemplate(template, "x.jinja")), vocabulary("chatml")[0])
    assert time.thread_time() - started < 4
    message = str(caught.value)
    assert "\n" not in message
    assert "--chat-template FILE" in message
    assert len(message) < 1000


@pytest.mark.parametrize("name", ["endless loop", "deep recursion", "doubled text", "class"])
def test_a_dialog_that_hits_a_bound_is_refused(name: str) -> None:
    trap = f"{{% if messages | length > 4 %}}{HOSTILE[name][0]}{{% endif %}}"
    form = TemplatedFormat(ChatTemplate(source("chatml") + trap, {}), vocabulary("chatml")[0])
    assert form.encode(USER)
    with pytest.raises(InvalidDialog, match=r"this model's chat template cannot render the dialog: .+"):
        form.encode(USER * 5)
    assert form.encode(USER)


def test_a_refusal_of_the_template_is_told() -> None:
    trap = "{% if messages | length > 4 %}{{ raise_exception('at most four\nmessages') }}{% endif %}"
    form = TemplatedFormat(ChatTemplate(source("chatml") + trap, {}), vocabulary("chatml")[0])
    with pytest.raises(InvalidDialog, match=r"chat template refuses the dialog: at most four messages$"):
        form.encode(USER * 5)


def test_a_long_dialog_is_within_the_bounds() -> None:
    """Ten thousand messages, and a message of four million characters."""
    form = TemplatedFormat(ChatTemplate(source("qwen-3"), {}), vocabulary("qwen-3")[0])
    turns: list[Message] = [USER[0], {"role": "assistant", "content": "yes\n"}] * 5000
    assert len(form.encode([*turns, *USER])) > 50_000
    template = ChatTemplate(source("llama-3.1"), {"bos_token": "<|begin_of_text|>"})
    assert len(template.render([{"role": "user", "content": "x " * 2_000_000}])) > 3_999_000


@pytest.mark.parametrize("content", ["", " \n"])
def test_files_that_are_no_template(content: str, tmp_path: Path, spec: ModelSpec) -> None:
    path = tmp_path / "chat.jinja"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"--chat-template .*chat.jinja: expected a Jinja template; found nothing"):
        choose_format(spec, vocabulary("chatml")[0], path)
    with pytest.raises(ConfigError, match="expected a readable file"):
        choose_format(spec, vocabulary("chatml")[0], tmp_path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="in UTF-8"):
        choose_format(spec, vocabulary("chatml")[0], path)


def test_what_no_template_needs_is_absent() -> None:
    for text in ("{{ lipsum() }}", "{{ messages | random }}", "{{ 'x' | urlize }}", "{{ open('x') }}"):
        with pytest.raises(BrokenTemplateError):
            ChatTemplate(text, {}).render(USER)
