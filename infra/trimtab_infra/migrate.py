"""Move the embedded stack's models, metrics, manifests and data to a production one. Can be run again after a failure.

MLflow's database is copied table by table, so that ids, aliases and tags stay what lineage, replay and manifests name;
going through MLflow's REST interface would give every run a new id. Files go first and the database last: MLflow
never speaks of what is not there. A row in the target database says who began and who is done.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import SQLAlchemyError

from trimtab_blocks.s3 import S3Store
from trimtab_blocks.s3_requests import client_of
from trimtab_blocks.stores import DirectoryStore
from trimtab_infra.backup import copy_database
from trimtab_infra.errors import TrimtabError, UserError
from trimtab_infra.stack.state import StateFolder

__all__ = ["MigrationRefused", "copy_rows", "migrate"]

_ROWS = 1000

#: Our own table in MLflow's database: one row a source.
_MARK = "trimtab_migration"


class MigrationRefused(UserError):
    """The target cannot take what would be moved there."""


def migrate(folder: StateFolder, store: S3Store, database: str, artifacts: str, say: Callable[[str], None]) -> None:
    """Copy everything; what an earlier try has copied is not sent again.

    Args:
        folder: of the embedded stack; it is only read.
        store: where snapshots, lineage and manifests go.
        database: SQLAlchemy address of the production MLflow server's PostgreSQL database.
        artifacts: ``s3://bucket/prefix``, that server's artifacts destination, on the server of ``store``.

    Raises:
        MigrationRefused: the source is not there, or the target has data of another origin, or has gone on since.
        StoreError: S3 could not be written.
    """
    source = folder.read().stack_id
    if not source or not (folder.mlflow / "mlflow.db").is_file():
        raise MigrationRefused(f"{folder.path} holds no stack with models: nothing to migrate")
    if not database.startswith("postgresql+psycopg2://"):
        raise MigrationRefused("the database must be named as postgresql+psycopg2://user@host/name")
    try:
        with tempfile.TemporaryDirectory(prefix="trimtab-migrate-") as scratch:
            copied = Path(scratch) / "mlflow.db"
            copy_database(folder.mlflow / "mlflow.db", copied)
            target = sa.create_engine(database, poolclass=sa.NullPool)
            _prepare(copied, target)
            if not _begin(target, source):
                say("it was migrated before, completely; nothing is done")
                return
            say(f"{_copy_store(DirectoryStore(path=folder.store), store)} blobs are in {store}")
            say(f"{_copy_artifacts(folder.mlflow / 'artifacts', store, artifacts)} artifacts are in {artifacts}")
            say(f"{copy_rows(copied, target)} rows are in MLflow's database")
            with target.begin() as connection:
                connection.execute(
                    sa.text(f"update {_MARK} set done = true where source = :source"), {"source": source}
                )
    except SQLAlchemyError as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise TrimtabError(f"the database: {reason}; nothing is lost, run it again when that is mended") from None


def _prepare(copied: Path, target: sa.Engine) -> None:
    """Both databases at the schema of the MLflow that is installed."""
    from mlflow.store.db.utils import _initialize_tables, _upgrade_db

    # That it looks at its tables is no news to a person.
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    engine = sa.create_engine(f"sqlite:///{copied}")
    _upgrade_db(engine)  # type: ignore[no-untyped-call]
    engine.dispose()
    if "experiments" in sa.inspect(target).get_table_names():
        _upgrade_db(target)  # type: ignore[no-untyped-call]
    else:
        _initialize_tables(target)  # type: ignore[no-untyped-call]


def _begin(target: sa.Engine, source: str) -> bool:
    """Note that this source is being moved; False if that was finished before."""
    with target.begin() as connection:
        mark = f"create table if not exists {_MARK} (source text primary key, done boolean not null)"
        connection.execute(sa.text(mark))
        known = {row.source: row.done for row in connection.execute(sa.text(f"select source, done from {_MARK}"))}
        if source in known:
            return not known[source]
        runs, models = (
            connection.execute(sa.text(f"select count(*) from {table}")).scalar_one()
            for table in ("runs", "registered_models")
        )
        if known or runs or models:
            raise MigrationRefused(
                f"MLflow's database there has {runs} runs and {models} models that are not from here; name an empty one"
            )
        connection.execute(sa.text(f"insert into {_MARK} values (:source, false)"), {"source": source})
    return True


def copy_rows(copied: Path, target: sa.Engine) -> int:
    """Every row of every table, by primary key: again is the same as once. Returns the number of rows."""
    tables = sa.MetaData()
    tables.reflect(target)
    count = 0
    with closing(sqlite3.connect(copied)) as source:
        source.row_factory = sqlite3.Row
        there = {name for (name,) in source.execute("select name from sqlite_master where type = 'table'")}
        for table in tables.sorted_tables:
            if table.name in there and table.name not in ("alembic_version", _MARK):
                with target.begin() as connection:  # a table at a time: a failure leaves whole tables
                    count += _copy_table(source, connection, table)
    return count


def _copy_table(source: sqlite3.Connection, connection: sa.Connection, table: sa.Table) -> int:
    keys = [column.name for column in table.primary_key]
    cursor = source.execute(f'select * from "{table.name}"')
    count = 0
    while rows := cursor.fetchmany(_ROWS):
        values = [{name: _typed(table.columns[name], row[name]) for name in row.keys()} for row in rows]  # noqa: SIM118
        statement = insert(table)
        rest = {name: statement.excluded[name] for name in values[0] if name not in keys}
        if keys and rest:
            statement = statement.on_conflict_do_update(index_elements=keys, set_=rest)
        else:
            statement = statement.on_conflict_do_nothing()
        connection.execute(statement, values)
        count += len(rows)
    for name in keys:
        # Numbers that PostgreSQL gives out go on after those that came.
        if (sequence := _sequence(connection, table.name, name)) is not None:
            last = f'select setval(:sequence, coalesce((select max("{name}") from "{table.name}"), 0) + 1, false)'
            connection.execute(sa.text(last), {"sequence": sequence})
    return count


def _typed(column: sa.Column[Any], value: Any) -> Any:
    """SQLite has numbers where PostgreSQL has truth values, and text where it has JSON or times."""
    if value is None or not isinstance(column.type, (sa.Boolean, sa.JSON, sa.DateTime)):
        return value
    if isinstance(column.type, sa.Boolean):
        return bool(value)
    if isinstance(column.type, sa.JSON):
        import json

        return json.loads(value)
    return str(value)


def _sequence(connection: sa.Connection, table: str, column: str) -> str | None:
    found = connection.execute(
        sa.text("select pg_get_serial_sequence(:table, :column)"), {"table": f'"{table}"', "column": column}
    )
    return str(name) if (name := found.scalar_one()) is not None else None


def _copy_store(source: DirectoryStore, target: S3Store) -> int:
    """Blobs never change: one that is there, of the same size, is done."""
    count = 0
    for key in source.keys():  # noqa: SIM118 - a method of stores, not a mapping
        with source.local(key) as file:
            if not target.write_once(key, file) and target.size(key) != file.stat().st_size:
                raise MigrationRefused(f"{target} has another blob under {key!r}; name another prefix")
        count += 1
    return count


def _copy_artifacts(source: Path, store: S3Store, destination: str) -> int:
    """MLflow's files under the same names; each object carries the SHA-256 of its content, and is compared by it."""
    where = urlsplit(destination)
    if where.scheme != "s3" or not where.netloc:
        raise MigrationRefused(f"{destination!r} is no place for artifacts: write s3://bucket/prefix")
    client = client_of(store._connection)
    prefix = where.path.strip("/")
    count = 0
    for file in sorted(one for one in source.rglob("*") if one.is_file()):
        key = "/".join(filter(None, [prefix, file.relative_to(source).as_posix()]))
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        if _digest_there(client, where.netloc, key) != digest:
            extra = {"Metadata": {"sha256": digest}, "ChecksumAlgorithm": "SHA256"}
            client.upload_file(str(file), where.netloc, key, ExtraArgs=extra)
        count += 1
    return count


def _digest_there(client: Any, bucket: str, key: str) -> str | None:
    from botocore.exceptions import ClientError

    try:
        return str(client.head_object(Bucket=bucket, Key=key)["Metadata"].get("sha256"))
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return None
        raise
