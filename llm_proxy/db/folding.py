"""Lower case in the database, by Unicode's rules or for ASCII letters alone."""

from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import Function


class Lowered(Function[str]):
    """Lower case by Unicode's rules, although the column's collation knows bytes alone."""

    inherit_cache = True
    name = "lower"

    def __init__(self, column: ColumnElement[Any]) -> None:
        super().__init__("lower", column)


class Folded(Function[str]):
    """Lower case of ASCII letters, or the text itself where LIKE folds them anyway."""

    inherit_cache = True
    name = "lower"

    def __init__(self, column: ColumnElement[Any]) -> None:
        super().__init__("lower", column)


@compiles(Lowered, "postgresql")
def _lowered_on_postgresql(element: Lowered, compiler: SQLCompiler, **options: Any) -> str:
    return f'lower({compiler.process(element.clauses, **options)} COLLATE "default")'


@compiles(Folded, "postgresql")
def _folded_on_postgresql(element: Folded, compiler: SQLCompiler, **options: Any) -> str:
    return f'lower({compiler.process(element.clauses, **options)} COLLATE "C")'


@compiles(Folded, "sqlite")
def _folded_on_sqlite(element: Folded, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)
