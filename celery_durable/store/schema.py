"""The schema's version: what is there, what this code needs, and how to get from one to the other."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, column, inspect, select, table, text

from ..errors import ConfigurationError
from ..statuses import SchemaState
from .dialects import dialect_of

__all__ = ["HEAD", "VERSION_TABLE", "check_schema", "migrate", "schema_state", "upgrade"]

VERSION_TABLE = "alembic_version"
KNOWN = ("0001", "0002", "0003", "0004", "0005", "0006")
HEAD = KNOWN[-1]


def schema_state(connection: Connection, prefix: str) -> SchemaState:
    """Where the schema stands, seen from this code."""
    name = prefix + VERSION_TABLE
    if not inspect(connection).has_table(name):
        return "missing"
    version = connection.execute(select(column("version_num")).select_from(table(name))).scalar()
    if version is None:
        return "missing"
    if version == HEAD:
        return "current"
    return "old" if version in KNOWN else "newer"


def _only_adds(connection: Connection, prefix: str) -> bool:
    """Whether a newer schema has all that this code needs: its version begins with the same digit, as those do that
    only add to each other. So workers of the last version go on, and can be started, while others are upgraded."""
    version = str(connection.execute(select(column("version_num")).select_from(table(prefix + VERSION_TABLE))).scalar())
    return version[:1] == HEAD[:1] and version > HEAD


def check_schema(connection: Connection, prefix: str) -> None:
    """Raise ``ConfigurationError`` unless the schema is the one that this code works with."""
    state = schema_state(connection, prefix)
    if state == "current" or (state == "newer" and _only_adds(connection, prefix)):
        return
    where = connection.engine.url.render_as_string(hide_password=True)
    if state == "newer":
        raise ConfigurationError(
            f"the durable tables in {where} were made by a newer celery_durable than this one (which knows "
            f"versions up to {HEAD}). Upgrade celery-durable here."
        )
    what = "has no durable tables" if state == "missing" else "has the durable tables of an older version"
    raise ConfigurationError(
        f"the database {where} {what}. Make them with:  celery -A proj durable migrate  "
        "(or Durable(app).migrate() in a script)"
    )


def migrate(engine: Engine, prefix: str) -> bool:
    """Bring the schema to this code's version. Returns whether there was anything to do.

    Two processes may migrate at once (all workers of a SQLite project do at their first start): they
    take turns, and who comes second finds it done.
    """
    with engine.connect() as connection:
        if schema_state(connection, prefix) == "current":
            return False  # without a lock, which on SQLite a transaction of the caller's may hold
    with engine.connect() as connection, _OneAtATime(connection, prefix):
        state = schema_state(connection, prefix)
        if state in ("current", "newer"):
            check_schema(connection, prefix)
            return False
        upgrade(connection, prefix)
        return True


def upgrade(connection: Connection, prefix: str, version: str = HEAD) -> None:
    """Execute the migrations up to a version, whoever else may do the same."""
    # Alembic takes longer to import than everything else here, and only a real migration needs it.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes.update(connection=connection, prefix=prefix)
    command.upgrade(config, version)


class _OneAtATime:
    """One process migrates at a time, and on SQLite and PostgreSQL all of it or nothing is done."""

    def __init__(self, connection: Connection, prefix: str) -> None:
        self._connection = connection
        self._name = f"{prefix}migrate"
        self._dialect = dialect_of(connection.engine)

    def __enter__(self) -> None:
        if self._dialect.name == "mysql":  # whose DDL commits by itself
            self._run("SELECT GET_LOCK(:name, 60)")
            return
        self._connection.exec_driver_sql(self._dialect.begin)
        if self._dialect.name == "postgresql":
            self._run("SELECT pg_advisory_xact_lock(hashtext(:name))")

    def __exit__(self, kind: object, *exc: object) -> None:
        if self._dialect.name == "mysql":
            self._run("SELECT RELEASE_LOCK(:name)")
        else:
            self._connection.exec_driver_sql("ROLLBACK" if kind else "COMMIT")

    def _run(self, statement: str) -> None:
        self._connection.execute(text(statement), {"name": self._name})
