"""Whether databases and brokers that servers on this machine are told of can be used: looked at where configured."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from trimtab_infra.doctor.findings import Finding, fault, fine

__all__ = ["databases", "redis"]

_TIMEOUT_S = 5.0

#: Settings that hold the address of a database, and the driver that it must name.
_DATABASES = {
    "PREFECT_SERVER_DATABASE_CONNECTION_URL": "postgresql+asyncpg",
    "PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg",
    "MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg2",
}


def databases(environment: Mapping[str, str]) -> Iterator[Finding]:
    """PostgreSQL, where the environment of a server names it: driver, reachability, the right to make tables."""
    for variable, driver in _DATABASES.items():
        url = environment.get(variable, "")
        if url.startswith("postgres"):
            yield _database(variable, url, driver)


def redis(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Redis, where Prefect's messages go through it."""
    if not environment.get("PREFECT_MESSAGING_BROKER", "").startswith("prefect_redis"):
        return
    host = environment.get("PREFECT_REDIS_MESSAGING_HOST", "localhost")
    port = int(environment.get("PREFECT_REDIS_MESSAGING_PORT", "6379"))
    if find_spec("prefect_redis") is None:
        yield fault("redis", "prefect-redis is not installed", "pip install 'trimtab[production]'")
        return
    from redis import Redis
    from redis.exceptions import RedisError

    settings = {"username": "USERNAME", "password": "PASSWORD"}
    given = {name: environment.get(f"PREFECT_REDIS_MESSAGING_{end}") for name, end in settings.items()}
    try:
        with Redis(host=host, port=port, socket_timeout=_TIMEOUT_S, **given) as client:  # type: ignore[arg-type]
            version = client.info("server")["redis_version"]
    except (RedisError, OSError) as error:
        yield fault("redis", f"no use of {host}:{port} ({error})", "start it, or correct PREFECT_REDIS_MESSAGING_*")
        return
    yield fine("redis", f"{version} at {host}:{port}")


def _database(variable: str, url: str, driver: str) -> Finding:
    part, parts = "postgresql", urlsplit(url)
    where = f"{parts.hostname or 'localhost'}:{parts.port or 5432}{parts.path}"
    if parts.scheme != driver:
        seen = f"{variable} begins with {parts.scheme}://"
        return fault(part, seen, f"write {driver}://, or SQLAlchemy takes another driver, which is not installed")
    try:
        version, may = asyncio.run(_ask(parts))
    except (OSError, TimeoutError) as error:
        return fault(part, f"no answer from {where} ({error or 'timeout'})", f"start it, or correct {variable}")
    except Exception as error:  # noqa: BLE001 - asyncpg's own errors: the server answered, and refused
        return fault(part, f"{where} refuses us ({error})", f"correct user, password or database in {variable}")
    if not may:
        return fault(part, f"{where}: we may not make tables", "GRANT CREATE ON SCHEMA public TO the user")
    return fine(part, f"{version} at {where} ({variable}), we may make tables")


async def _ask(parts: Any) -> tuple[str, bool]:
    import asyncpg

    connection = await asyncpg.connect(
        host=parts.hostname,
        port=parts.port or 5432,
        user=parts.username,
        password=parts.password,
        database=parts.path.lstrip("/") or None,
        timeout=_TIMEOUT_S,
    )
    try:
        version = await connection.fetchval("show server_version")
        may = await connection.fetchval("select has_schema_privilege('public', 'CREATE')")
    finally:
        await connection.close()
    return str(version), bool(may)
