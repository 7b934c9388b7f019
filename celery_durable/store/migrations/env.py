"""Alembic's environment: the store hands over a connection, there is no alembic.ini."""

from alembic import context

from celery_durable.store.schema import VERSION_TABLE

attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    version_table=attributes["prefix"] + VERSION_TABLE,
    transactional_ddl=False,
)
context.run_migrations()
