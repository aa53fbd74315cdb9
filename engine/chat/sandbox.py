"""The environment that templates run in: jinja2's immutable sandbox, with bounds and with the writers of texts.

The code that jinja2 generates for a template is changed in five places: its own texts are marked as the template's,
`~` and the output keep the writers, loops and comparisons are counted, and containers are weighed. Everything else uses
the sandbox's own hooks. Only JSON-like containers, loops and macros have attributes. Knows no dialogs and no tokens.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import Any, NoReturn

from jinja2 import Undefined, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace

from engine.chat.filters import filters
from engine.chat.limits import TemplateLimitError, budget, check_number
from engine.chat.provenance import by_template, concat
from engine.chat.text_methods import METHODS, as_text, join, percent, repeat

_ATTRIBUTES = (dict, list, tuple, LoopContext, Macro, Cycler, Joiner, Namespace, Undefined)
_RANGE = 100_000
_DATE_WIDTH = re.compile(r"%[-_0^#+]*[1-9]")
_OPERATORS = frozenset(("+", "-", "*", "/", "//", "**", "%"))


class DialogRefusedError(Exception):
    """The template calls `raise_exception`; the message is the template's."""


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}`, with which templates mark the text to train on; here only its content."""

    tags = {"generation"}  # noqa: RUF012 - the library's attribute

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The nodes inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Generator(CodeGenerator):
    """Python code of a template. `environment` in it is the sandbox below."""

    def visit_Const(self, node: nodes.Const, frame: Frame) -> None:
        if isinstance(node.value, str):
            self.write(f"environment.by_template({node.value!r})")
        else:
            super().visit_Const(node, frame)

    def visit_TemplateData(self, node: nodes.TemplateData, frame: Frame) -> None:
        self.write(f"environment.by_template({node.data!r})")

    def _output_child_to_const(self, node: nodes.Expr, frame: Frame, finalize: Any) -> str:
        if isinstance(node, nodes.TemplateData):
            return node.data
        raise nodes.Impossible

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return f"environment.by_template({''.join(group)!r})"

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write("environment.as_text(")

    def _output_child_post(self, node: nodes.Expr, frame: Frame, finalize: Any) -> None:
        self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.concat((")
        for operand in node.nodes:
            self.visit(operand, frame)
            self.write(", ")
        self.write("))")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        self.write("(environment.tick() and ")
        super().visit_Compare(node, frame)
        self.write(")")

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        node.iter = nodes.Call(nodes.EnvironmentAttribute("counted"), [node.iter], [], None, None)
        super().visit_For(node, frame)

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self._weighed(super().visit_List, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx == "load":
            self._weighed(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self._weighed(super().visit_Dict, node, frame)

    def _weighed(self, visit: Callable[[Any, Frame], None], node: nodes.Expr, frame: Frame) -> None:
        self.write("environment.weighed(")
        visit(node, frame)
        self.write(")")


class Sandbox(ImmutableSandboxedEnvironment):
    """One for all templates. A rendering must be within `limits.spending`."""

    code_generator_class = _Generator
    intercepted_binops = _OPERATORS
    intercepted_unops = frozenset(("-",))
    by_template = staticmethod(by_template)
    as_text = staticmethod(as_text)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], optimized=False, cache_size=0
        )
        self.filters = filters(self.getitem)
        for name in ("lipsum", "range"):
            del self.globals[name]
        self.globals.update(
            range=_range, raise_exception=_raise_exception, strftime_now=_strftime_now, namespace=_Namespace
        )

    @staticmethod
    def concat(parts: Iterable[object]) -> str:
        """Joins what blocks, macros and `~` write."""
        return join(parts)

    @staticmethod
    def tick() -> bool:
        """Charge a comparison; true."""
        budget().step()
        return True

    @staticmethod
    def weighed(value: object) -> object:
        """A container that the template makes."""
        budget().weigh(value)
        return value

    @staticmethod
    def counted(values: Iterable[Any]) -> Iterator[Any]:
        """Charge each round of a loop. The values are looked up first, as the loop itself would."""
        return _count(iter(values))

    def getattr(self, obj: Any, attribute: str) -> Any:
        """See jinja2."""
        budget().step()
        if isinstance(obj, str):
            return self._text_method(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """See jinja2."""
        budget().step()
        if isinstance(obj, str) and isinstance(argument, str):
            return self._text_method(obj, argument)
        return super().getitem(obj, argument)

    def _text_method(self, obj: str, name: str) -> Any:
        method = METHODS.get(name)
        return self.undefined(obj=obj, name=name) if method is None else partial(method, obj)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """See jinja2."""
        return isinstance(obj, _ATTRIBUTES) and super().is_safe_attribute(obj, attr, value)

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """See jinja2."""
        budget().step(4)
        if args and obj is not self.counted:
            budget().weigh(args)
        if kwargs:
            budget().weigh(kwargs)
        result = super().call(context, obj, *args, **kwargs)
        budget().weigh(result)
        return result

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """See jinja2."""
        budget().step()
        if isinstance(left, str) and operator == "%":
            return percent(left, right)
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            budget().chars(len(left) + len(right))
            return concat((left, right))
        if operator == "*" and isinstance(left, str | list | tuple) != isinstance(right, str | list | tuple):
            sequence, count = (right, left) if isinstance(right, str | list | tuple) else (left, right)
            if isinstance(count, int):
                return _repeated(sequence, count)
        check_number(left)
        check_number(right)
        if operator == "**" and not (abs(left) <= 1 << 32 and abs(right) <= 64):
            raise TemplateLimitError("its numbers are too large")
        result = super().call_binop(context, operator, left, right)
        budget().weigh(result)
        check_number(result)
        return result


def _repeated(sequence: Any, count: int) -> Any:
    if isinstance(sequence, str):
        return repeat(sequence, count)
    budget().step(len(sequence) * max(0, count))
    result = sequence * count
    budget().weigh(result)
    return result


def _count(values: Iterator[Any]) -> Iterator[Any]:
    for value in values:
        budget().step()
        yield value


def _range(*bounds: int) -> range:
    values = range(*bounds)
    if any(abs(bound) > _RANGE for bound in bounds):
        raise TemplateLimitError("its loops are too long")
    return values


def _raise_exception(message: object) -> NoReturn:
    raise DialogRefusedError(str.__str__(as_text(message)))


def _strftime_now(pattern: str) -> str:
    if len(pattern) > 100 or _DATE_WIDTH.search(pattern):
        raise TemplateLimitError("its date is too long")
    return datetime.now().astimezone().strftime(str.__str__(pattern))


class _Namespace(Namespace):
    """Jinja's, without names that begin with an underscore."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError("a name that begins with an underscore")
        super().__setitem__(name, value)
