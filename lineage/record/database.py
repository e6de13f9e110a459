"""The database: tables, connections, migrations. SQLite in WAL mode by default, PostgreSQL if its URL is set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Engine,
    Executable,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    inspect,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, IntegrityError

from lineage.errors import Fault
from lineage.paths import database_url
from lineage.record import append_only
from lineage.record.prediction import Field, JournalRow, fields_of

VERSION = "0006"
LOCK = 7243191  # an arbitrary number: the advisory lock of writers in PostgreSQL
WAIT_MS = 30_000
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "recursive_triggers=ON", "secure_delete=ON")

Condition = ColumnElement[bool]

metadata = MetaData()
_number = BigInteger().with_variant(Integer, "sqlite")  # in SQLite only an INTEGER primary key is the row id

ledger = Table(
    "ledger",
    metadata,
    Column("seq", _number, primary_key=True, autoincrement=False),
    Column("at", String, nullable=False),
    Column("kind", String, nullable=False, index=True),
    Column("subject", String, nullable=False, index=True),
    Column("actor", String, nullable=False),
    Column("payload", Text, nullable=False),
    Column("previous", String, nullable=False),
    Column("hash", String, nullable=False, unique=True),
)


def _journal_column(field: Field) -> Column[Any]:
    """The column of one field of a row; JSON and long texts have no limit of their length."""
    kind = Text if field.is_json or field.about.is_long else {str: String, float: Float}[field.plain_type]
    default = None if field.default is MISSING else field.default
    return Column(field.name, kind, nullable=field.is_optional, unique=field.name == "id", server_default=default)


journal = Table(
    "journal",
    metadata,
    Column("number", _number, primary_key=True, autoincrement=True),
    *(_journal_column(field) for field in fields_of(JournalRow)),
    Index("journal_task_at", "task", "at"),
)

people = Table(
    "people",
    metadata,
    Column("name", String, primary_key=True),
    Column("role", String, nullable=False),
    Column("added_at", String, nullable=False),
    Column("added_by", String, nullable=False),
    Column("disabled_at", String),
)

tokens = Table(
    "tokens",
    metadata,
    Column("sha256", String, primary_key=True),
    Column("name", String, nullable=False, index=True),
    Column("scope", String, nullable=False),
    Column("issued_at", String, nullable=False),
    Column("expires_at", String, nullable=False),
    Column("used_at", String),
    Column("revoked_at", String),
    Column("site", String, nullable=False, server_default=""),
)

sessions = Table(
    "sessions",
    metadata,
    Column("sha256", String, primary_key=True),
    Column("name", String, nullable=False, index=True),
    Column("place", String, nullable=False),
    Column("opened_at", String, nullable=False),
    Column("expires_at", String, nullable=False),
    Column("ended_at", String),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", _number, primary_key=True, autoincrement=True),
    Column("kind", String, nullable=False),
    Column("key", String, nullable=False),
    Column("payload", Text, nullable=False),
    Column("put_at", String, nullable=False),
    Column("done_at", String),
    UniqueConstraint("kind", "key", name="outbox_kind_key"),
)

outcomes = Table(
    "outcomes",
    metadata,
    Column("id", _number, primary_key=True, autoincrement=True),
    Column("prediction_id", String, nullable=False, index=True),
    Column("label", String, nullable=False),
    Column("source", String, nullable=False),
    Column("actor", String, nullable=False),
    Column("at", String, nullable=False),
)


def now() -> str:
    """The current time in UTC with whole seconds: `2026-01-31T12:00:00Z`, the format of all records."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def engine() -> Engine:
    """The engine of the current database URL, created once for each URL and process."""
    return _engine(database_url(), os.getpid())


def exists() -> bool:
    """Whether there is a database with a ledger; this never creates one."""
    address = make_url(database_url())
    if address.drivername == "sqlite" and not (address.database and Path(address.database).is_file()):
        return False
    with reading() as connection:
        return inspect(connection).has_table(ledger.name)


@contextmanager
def reading() -> Iterator[Connection]:
    """A connection with one consistent view of the database."""
    with _explained(), engine().connect() as connection:
        yield connection


@contextmanager
def writing() -> Iterator[Connection]:
    """A transaction that is the only writer from its first statement; committed at the end, or rolled back."""
    with _explained(), engine().connect().execution_options(only_writer=True) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
        yield connection


def fetch(statement: Executable) -> list[dict[str, Any]]:
    """The rows of a query."""
    with reading() as connection:
        return [dict(row) for row in connection.execute(statement).mappings()]


def execute(statement: Executable) -> int:
    """Execute a statement in its own transaction; the number of changed rows."""
    with writing() as connection:
        return int(connection.execute(statement).rowcount)


def insert_new(table: Table, row: dict[str, Any]) -> bool:
    """Insert a row unless one with its key exists; whether it was inserted."""
    with writing() as connection:
        dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(table).values(row).on_conflict_do_nothing().returning(*table.primary_key)
        return connection.execute(statement).first() is not None


def migrate() -> None:
    """Migrate the database to this code's version. Safe in several processes at once."""
    with writing() as connection:
        if _version(connection) == VERSION:
            return
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
        config.attributes["connection"] = connection
        command.upgrade(config, VERSION)
    _checkpoint()


def missing_guards() -> list[str]:
    """The names of triggers on ledger and journal that are missing, disabled or altered."""
    with reading() as connection:
        if connection.dialect.name == "sqlite":
            triggers = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"))
            stored_sql = {str(row.name): str(row.sql) for row in triggers}
            return sorted(name for name, sql in append_only.sqlite_guards().items() if stored_sql.get(name) != sql)
        enabled = text("SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgenabled = 'A'")
        function_body = text("SELECT prosrc FROM pg_proc WHERE proname = 'oncoloop_refuse'")
        if not all(source in append_only.POSTGRESQL_FUNCTION for source in connection.execute(function_body).scalars()):
            return sorted(append_only.postgresql_guards())
        return sorted(set(append_only.postgresql_guards()) - set(connection.execute(enabled).scalars()))


@lru_cache(maxsize=16)
def _engine(url: str, _process: int) -> Engine:
    """The engine of a URL; cached by process too, since a forked child must not share its parent's connections."""
    try:
        address = make_url(url)
    except ArgumentError as error:
        raise Fault(
            "ONCOLOOP_DATABASE_URL is not a database address; use sqlite:///FILE or postgresql://..."
        ) from error
    if address.drivername == "postgresql":
        return create_engine(address.set(drivername="postgresql+psycopg"), pool_pre_ping=True)
    if address.drivername != "sqlite":
        raise Fault(f"the database {address.drivername!r} is not supported; use sqlite:///FILE or postgresql://...")
    if address.database:
        Path(address.database).parent.mkdir(parents=True, exist_ok=True)
    new_engine = create_engine(address)
    event.listen(new_engine, "connect", _prepare)
    event.listen(new_engine, "begin", _begin)
    return new_engine


def _prepare(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # sqlite3 must not begin transactions; `_begin` does
    connection.execute(f"PRAGMA busy_timeout={WAIT_MS}")
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _checkpoint() -> None:
    """Move SQLite's write-ahead log into the database file, so that the log keeps no overwritten pages."""
    if engine().dialect.name != "sqlite":
        return
    with _explained(), engine().connect() as connection:
        cursor = connection.connection.cursor()  # SQLAlchemy would open a transaction around it
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        cursor.close()


def _begin(connection: Connection) -> None:
    """Let a writer take the lock before it reads: a later lock fails at once if another writer was faster."""
    writes = connection.get_execution_options().get("only_writer")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


@contextmanager
def _explained() -> Iterator[None]:
    """Turn errors of the database into a Fault."""
    try:
        yield
    except IntegrityError as error:
        raise Fault(f"the database refused a change: {_first_line(error)}") from error
    except DatabaseError as error:
        address = make_url(database_url()).render_as_string(hide_password=True)
        raise Fault(
            f"the database {address} can't be used: {_first_line(error)}; run `oncoloop init`, or restore a backup"
        ) from error


def _first_line(error: DatabaseError) -> str:
    return str(error.orig).splitlines()[0]
