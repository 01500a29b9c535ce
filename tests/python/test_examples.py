"""The programs in `examples/`, as anybody runs them: with a host and a token, and perhaps the authority."""

import os
import subprocess
import sys
import time

import pytest

from server import PATIENCE, ROOT

EXAMPLES = ["data_only", "schema_to_production", "concurrent_change", "ci"]


def start(server, token, example, *arguments, **more):
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-B", os.path.join(ROOT, "examples", f"{example}.py"), *arguments],
        env={
            **kept,
            "DATABRICKS_HOST": server.host,
            "DATABRICKS_TOKEN": token,
            "DATABRICKS_CONFIG_FILE": os.devnull,
            **more,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def checked(server, token, example, *arguments):
    """With the authority's certificate, so that the server has to prove itself."""
    return start(server, token, example, *arguments, PGSSLROOTCERT=server.authority())


def finish(process):
    said, _ = process.communicate(timeout=2 * PATIENCE)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def eve(server):
    return server.user("eve@example.org")


@pytest.mark.parametrize("example", EXAMPLES)
def test_twice_in_a_row(server, eve, example):
    first, second = (finish(checked(server, eve, example)) for _ in range(2))
    assert first.splitlines()[0] == second.splitlines()[0], "the same project"
    assert list(server.client(eve).postgres.list_projects()) == []


def test_two_principals_at_once(server):
    people = [server.user(f"{name}.example@example.org") for name in ("kim", "lou")]
    clients = [server.client(token) for token in people]
    names = [client.current_user.me().user_name for client in clients]
    for example in EXAMPLES:
        running = [checked(server, token, example) for token in people]
        seen = [set(), set()]
        while any(process.poll() is None for process in running):
            for client, owners in zip(clients, seen):
                owners.update(project.status.owner for project in client.postgres.list_projects())
            time.sleep(0.2)
        said = [finish(process) for process in running]
        assert seen == [{names[0]}, {names[1]}], said
        assert said[0].splitlines()[0] != said[1].splitlines()[0]


def test_branches_vanish_by_themselves(server, eve):
    assert "the branches have vanished" in finish(checked(server, eve, "ci", "--ttl", "30"))


def test_with_nothing_but_a_host_and_a_token(server, eve):
    """The connections are encrypted then, too; nobody checks to whom."""
    assert "is gone" in finish(start(server, eve, "data_only"))
