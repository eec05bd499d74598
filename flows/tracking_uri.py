"""Addresses of MLflow: which ones it can take at all, and which file one of SQLite means.

Promises: an address that can never work is refused in one sentence before anything is started, without its password;
one that works when its server is up is not. It connects to nothing and imports no MLflow.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit

from nanochat import environment
from nanochat.redaction import redacted

SERVERS = ("http", "https")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
MLFLOW_SETTINGS = {  # the outbox tries again; MLflow's own seven retries would block for four minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
EXAMPLES = "give http://HOST:PORT or sqlite:////PATH/mlflow.db, or leave it empty for a file of our own"


def check(tracking_uri: str) -> None:
    """ValueError, where MLflow never takes the address: its scheme, its host, or what it needs is missing."""
    fault = _fault(tracking_uri)
    if fault:
        raise ValueError(f"MLFLOW_TRACKING_URI = {redacted(tracking_uri)!r}: {fault}; {EXAMPLES}")


def _fault(uri: str) -> str:
    if any(letter.isspace() for letter in uri) and not uri.startswith("sqlite"):  # a file's name may have spaces
        return "has a space in it"
    scheme = uri.split(":")[0].lower() if ":" in uri else ""
    if uri == "databricks" or scheme in {
        "databricks",
        *(each.name for each in entry_points(group="mlflow.tracking_store")),
    }:
        return ""
    if scheme in SERVERS:
        return _fault_of_server(uri)
    if scheme.split("+")[0] in DATABASES:
        return _fault_of_database(uri)
    if scheme in ("", "file"):
        allowed = environment.text("MLFLOW_ALLOW_FILE_STORE").lower() in ("true", "1")
        return "" if allowed else "MLflow keeps no runs in a folder any more"
    return f"MLflow knows no {scheme}:"


def _fault_of_server(uri: str) -> str:
    try:
        parts = urlsplit(uri)
        return "" if parts.hostname and parts.port != 0 else "names no host"
    except ValueError as error:  # the port is no number, or the brackets of an IPv6 address are torn
        return str(error)


def _fault_of_database(uri: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        make_url(uri).get_dialect().import_dbapi()
    except (NoSuchModuleError, ImportError) as error:
        return f"its driver is not installed ({error})"
    except (ArgumentError, ValueError):
        return "is no address of a database"
    return ""


def database_of(tracking_uri: str) -> Path | None:
    """The file of an SQLite address, as SQLAlchemy reads it; None for everything else."""
    if not tracking_uri.startswith("sqlite"):
        return None
    from sqlalchemy.engine import make_url

    name = make_url(tracking_uri).database or ":memory:"
    return None if name.startswith((":memory:", "file:")) else Path(name).absolute()


def absolute(tracking_uri: str) -> str:
    """The same for a process with another working directory; only a file's address can be relative."""
    database = database_of(tracking_uri)
    if database is None:
        return tracking_uri
    from sqlalchemy.engine import make_url

    return make_url(tracking_uri).set(database=str(database)).render_as_string(hide_password=False)


def artifacts_beside(database: Path) -> str:
    """Where the artifacts of a database without a server go."""
    return (database.parent / "mlartifacts").as_uri()


def surround() -> None:
    """MLflow's own settings as we need them, unless the user has set them; before it is imported."""
    environment.fill(MLFLOW_SETTINGS)
