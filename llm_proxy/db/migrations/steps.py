"""Steps that look before they leap: MySQL has no transactional DDL, so a broken revision is run again."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.sql.schema import SchemaItem

from llm_proxy.db.models.base import MYSQL_TABLE
from llm_proxy.db.types import big_integer

_NOW = {
    "sqlite": "(strftime('%Y-%m-%d %H:%M:%f','now') || '000')",
    "postgresql": "now()",
    "mysql": "CURRENT_TIMESTAMP(6)",
    "mariadb": "CURRENT_TIMESTAMP(6)",
}


def now_default() -> sa.TextClause:
    """Return the present instant, in the form that `UtcTime` stores."""
    return sa.text(_NOW[op.get_bind().dialect.name])


def required(**types: Any) -> list[sa.Column[Any]]:
    """Return columns that are NOT NULL, in this order: a type by name."""
    return [sa.Column(name, type_, nullable=False) for name, type_ in types.items()]


def optional(**types: Any) -> list[sa.Column[Any]]:
    """Return columns that may be null, in this order: a type by name."""
    return [sa.Column(name, type_) for name, type_ in types.items()]


def counts(*names: str) -> list[sa.Column[Any]]:
    """Return columns that count from 0."""
    return [sa.Column(name, big_integer(), nullable=False, server_default=sa.text("0")) for name in names]


def create_table(name: str, *items: SchemaItem, key: Sequence[str], indexes: Sequence[Sequence[str]] = ()) -> None:
    """CREATE TABLE with its primary key and the indexes on these columns, unless they are there."""
    if name not in sa.inspect(op.get_bind()).get_table_names():
        op.create_table(name, *items, sa.PrimaryKeyConstraint(*key, name=f"pk_{name}"), **MYSQL_TABLE)
    for columns in indexes:
        create_index(f"idx_{name}_{'_'.join(columns)}", name, list(columns))


def drop_tables(*names: str) -> None:
    """DROP TABLE each, unless it is gone."""
    for name in names:
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


def change_primary_key(
    table: str, columns: Sequence[str], *, add: sa.Column[Any] | None = None, drop: str | None = None
) -> None:
    """Give a table another primary key, with a column more or less; nothing where it has that key."""
    if sa.inspect(op.get_bind()).get_pk_constraint(table)["constrained_columns"] == list(columns):
        return
    match op.get_bind().dialect.name:
        case "sqlite":
            _rebuild(table, columns, add, drop)
        case "postgresql":
            if add is not None:
                add_column(table, add)
            op.drop_constraint(f"pk_{table}", table)
            if drop is not None:
                drop_column(table, drop)
            op.create_primary_key(f"pk_{table}", table, list(columns))
        case _:
            _alter_on_mysql(table, columns, add, drop)


def _rebuild(table: str, columns: Sequence[str], add: sa.Column[Any] | None, drop: str | None) -> None:
    """Copy the table, with its indexes; SQLite cannot change a key."""
    bind = op.get_bind()
    before = sa.Table(table, sa.MetaData(), autoload_with=bind)
    kept = [column for column in before.columns if column.name != drop]
    made = [
        sa.Column(column.name, column.type, nullable=column.nullable, server_default=_default(column))
        for column in kept
    ]
    key = sa.PrimaryKeyConstraint(*columns, name=f"pk_{table}")
    after = op.create_table(f"{table}_new", *made, *([] if add is None else [add]), key)
    op.execute(after.insert().from_select([column.name for column in kept], sa.select(*kept)))
    op.drop_table(table)
    op.rename_table(f"{table}_new", table)
    for index in before.indexes:
        op.create_index(index.name, table, [column.name for column in index.columns], unique=index.unique)


def _default(column: sa.Column[Any]) -> sa.TextClause | None:
    default = column.server_default
    return sa.text(str(default.arg)) if isinstance(default, sa.DefaultClause) else None


def _alter_on_mysql(table: str, columns: Sequence[str], add: sa.Column[Any] | None, drop: str | None) -> None:
    """Change column and key in one statement, so that a broken revision finds either all of it or nothing."""
    dialect = op.get_bind().dialect
    steps = []
    if add is not None:
        steps.append(f"ADD COLUMN {dialect.ddl_compiler(dialect, None).get_column_specification(add)}")  # type: ignore[arg-type]
    steps += ["DROP PRIMARY KEY", *([f"DROP COLUMN {drop}"] if drop is not None else [])]
    op.execute(f"ALTER TABLE {table} {', '.join(steps)}, ADD PRIMARY KEY ({', '.join(columns)})")


def merge_rows(table: str, key: Sequence[str], sums: Sequence[str], column: str) -> None:
    """Add up rows that differ in nothing of the key but `column`, which is empty in the result."""
    parts = sa.table(table, *(sa.column(name) for name in (*key, *sums, column)))
    mark = "*"  # no provider's name
    several = [parts.c[name] for name in key]
    summed = [sa.func.sum(parts.c[name]).label(name) for name in sums]
    merged = sa.select(*several, *summed, sa.literal(mark)).group_by(*several)
    op.execute(parts.insert().from_select([*key, *sums, column], merged))
    op.execute(parts.delete().where(parts.c[column] != mark))


def _columns(table: str) -> set[str]:
    return {column["name"] for column in sa.inspect(op.get_bind()).get_columns(table)}
