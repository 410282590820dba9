"""Steps that look before they leap: MySQL has no transactional DDL, so a broken revision is run again."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.sql.schema import SchemaItem

from llm_proxy.db.models.base import MYSQL_TABLE

_NOW = {
    "sqlite": "(strftime('%Y-%m-%d %H:%M:%f','now') || '000')",
    "postgresql": "now()",
    "mysql": "CURRENT_TIMESTAMP(6)",
    "mariadb": "CURRENT_TIMESTAMP(6)",
}


def now_default() -> sa.TextClause:
    """Return the present instant, in the form that `UtcTime` stores."""
    return sa.text(_NOW[op.get_bind().dialect.name])


def create_table(name: str, *items: SchemaItem) -> None:
    """CREATE TABLE, unless it is there."""
    if name not in sa.inspect(op.get_bind()).get_table_names():
        op.create_table(name, *items, **MYSQL_TABLE)


def drop_table(name: str) -> None:
    """DROP TABLE, unless it is gone."""
    if name in sa.inspect(op.get_bind()).get_table_names():
        op.drop_table(name)


def create_index(name: str, table: str, columns: list[str]) -> None:
    """CREATE INDEX, unless it is there."""
    if name not in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}:
        op.create_index(name, table, columns)


def drop_index(name: str, table: str) -> None:
    """DROP INDEX, unless it is gone."""
    if name in {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}:
        op.drop_index(name, table)


def add_column(table: str, column: sa.Column[Any]) -> None:
    """ALTER TABLE … ADD, unless it is there."""
    if column.name not in _columns(table):
        op.add_column(table, column)


def drop_column(table: str, name: str) -> None:
    """ALTER TABLE … DROP, unless it is gone."""
    if name in _columns(table):
        op.drop_column(table, name)


def _columns(table: str) -> set[str]:
    return {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)}
