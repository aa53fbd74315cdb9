"""Stores table and column comments in SQLite as well.

Postgres stores comments in its catalog. SQLite has no place for them but keeps the text of CREATE TABLE verbatim, so
they are written there as SQL comments and `.schema` shows them. SQLAlchemy's reflection parses constraints out of the
same text: a comment must not contain what FORBIDDEN lists. Importing this module installs the two compiler hooks.
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
