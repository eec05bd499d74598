"""Fixtures that several test files share; a session has one of each."""

from tests.prefect_server import deployed, prefect_server

__all__ = ["deployed", "prefect_server"]
