"""What Alembic runs for a migration: the connection is given, already locked; a transaction a revision."""

from alembic import context

from llm_proxy.db.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transactional_ddl=context.config.attributes["connection"].dialect.name != "mysql",
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
