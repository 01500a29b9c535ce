"""Fixtures: one daemon for the whole run, projects by themselves."""

import glob
import itertools
import os

import pytest
import requests
from databricks.sdk import WorkspaceClient

from server import Server

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def answers():
    """Told the text of every answer over HTTP that anybody in this process gets."""
    heard, send = [], requests.Session.send

    def overheard(*arguments, **options):
        answer = send(*arguments, **options)
        for hear in heard:
            hear(answer.text)
        return answer

    requests.Session.send = overheard
    yield heard
    requests.Session.send = send


@pytest.fixture(scope="session", autouse=True)
def server(answers):
    """The daemon. What the person who runs the tests has set up for a real workspace is not touched:
    the vendor's variables name this daemon and its owner."""
    for name in [name for name in os.environ if name.startswith("DATABRICKS_")]:
        del os.environ[name]
    server = Server()
    try:
        os.environ["DATABRICKS_CONFIG_FILE"] = os.devnull
        os.environ["DATABRICKS_HOST"] = server.host
        os.environ["DATABRICKS_TOKEN"] = server.token()
        answers.append(server.secrets.notice)
        yield server
        keeps_secrets(server)
    finally:
        server.stop()


def keeps_secrets(server):
    """What the daemon and its servers wrote down tells none of the secrets that this run was told."""
    written = [os.path.join(server.dir, "log"), *glob.glob(os.path.join(server.home, "meta.db*"))]
    written += glob.glob(os.path.join(server.home, "**", "postgres.log"), recursive=True)
    texts = {"audit list": server.ana("audit", "list", "--json", "--limit", "100000")}
    for path in written:
        with open(path, encoding="latin-1") as file:
            texts[path] = file.read()
    assert all(texts[name] for name in ("audit list", written[0])) and server.secrets.known
    told = {name: kinds for name, text in texts.items() if (kinds := server.secrets.found_in(text))}
    assert not told, "secrets were written down"


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
