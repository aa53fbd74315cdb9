"""Keeps table and column comments on SQLite too.

Postgres stores them in its catalogue. SQLite has no such place, but keeps the text of CREATE TABLE word for word, so
the comments stand there and `.schema` shows them. The words in FORBIDDEN would confuse SQLAlchemy's reflection, which
reads constraints out of that text.
"""

from __future__ import annotations

from typing import Any, cast

from sqlalchemy import Table
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateColumn, CreateTable
from sqlalchemy.sql.compiler import DDLCompiler

FORBIDDEN = ("*/", '"', "'", "(", ")", "unique", "check", "constraint", "references", "foreign", "primary")


@compiles(CreateColumn, "sqlite")
def _column(element: CreateColumn, compiler: DDLCompiler, **kw: Any) -> str | None:
    sql = cast(str | None, cast(Any, compiler).visit_create_column(element, **kw))
    comment = element.element.comment
    return f"{sql} /* {comment} */" if sql and comment else sql


@compiles(CreateTable, "sqlite")
def _table(element: CreateTable, compiler: DDLCompiler, **kw: Any) -> str:
    sql = cast(str, cast(Any, compiler).visit_create_table(element, **kw))
    table = element.element
    comment = table.comment if isinstance(table, Table) else None
    return sql.replace("(", f"( /* {comment} */", 1) if comment else sql
