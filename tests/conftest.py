"""Fixtures that several test files share; a session has one server and one finished run."""

from tests.flow_home import home, made
from tests.prefect_server import deployed, prefect_server

__all__ = ["deployed", "home", "made", "prefect_server"]
