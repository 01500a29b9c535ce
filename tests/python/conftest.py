"""Fixtures: one daemon for the whole run, projects by themselves."""

import itertools
import os

import pytest
from databricks.sdk import WorkspaceClient

from server import Server

_numbers = itertools.count(1)


@pytest.fixture(scope="session", autouse=True)
def server():
    """The daemon. What the person who runs the tests has set up for a real workspace is not touched:
    the vendor's variables name this daemon and its owner."""
    for name in [name for name in os.environ if name.startswith("DATABRICKS_")]:
        del os.environ[name]
    server = Server()
    try:
        os.environ["DATABRICKS_CONFIG_FILE"] = os.devnull
        os.environ["DATABRICKS_HOST"] = server.host
        os.environ["DATABRICKS_TOKEN"] = server.token()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def w(server):
    """The owner's client, as a program makes it that knows nothing but the two variables."""
    return WorkspaceClient()


@pytest.fixture(scope="session")
def shop(w):
    """A project for tests that only look at it or add branches of their own."""
    from databricks.sdk.service.postgres import Project

    return w.postgres.create_project(project=Project(), project_id="shop").wait()


@pytest.fixture
def fresh():
    """An identifier that no other test uses."""
    return f"t{next(_numbers)}"
