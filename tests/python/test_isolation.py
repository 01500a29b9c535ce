"""What a superuser of one branch reaches of the others, and of the daemon that runs them."""

import glob
import json
import os
import sys

import pytest
from databricks.sdk.service.postgres import Branch, BranchSpec

SAID = """CREATE TEMP TABLE said (line text);
COPY said FROM PROGRAM $$({command}) 2>&1 || echo "it failed"$$ (FORMAT csv, DELIMITER E'\\x01', QUOTE E'\\x02');
SELECT string_agg(line, chr(10)) FROM said"""

# Speaks HTTP over a unix socket: the client programs that could may not be on this machine.
CALL = """import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
s.sendall(b"GET /api/2.0/postgres/projects HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n")
print(s.makefile().read())"""


@pytest.fixture(scope="module")
def branches(server, w, shop):
    """Two branches with their servers; the attacker sits on the first."""
    made = {}
    for branch_id in ("attacker", "victim"):
        branch = Branch(spec=BranchSpec(no_expiry=True))
        made[branch_id] = w.postgres.create_branch(parent=shop.name, branch=branch, branch_id=branch_id).wait()
        server.psql(f"shop/{branch_id}", "SELECT 1")
    yield made
    for branch in made.values():
        w.postgres.delete_branch(name=branch.name, purge=True).wait()


@pytest.fixture
def shell(server, branches):
    """Runs a command as a program of the attacker's server; gives what it said."""
    return lambda command: server.psql("shop/attacker", SAID.replace("{command}", command))


@pytest.fixture
def confined(server, capfd):
    if json.loads(server.ana("status", "--json"))["host"]["isolation"] != "landlock":
        with capfd.disabled():
            print("\nSKIPPED: isolation of computes: this kernel has no Landlock", file=sys.stderr)
        pytest.skip("no Landlock")


def sockets(server, branch):
    """Directory of a branch's socket."""
    shown = server.psql(f"shop/{branch}", "SHOW unix_socket_directories")
    [directory] = [word for word in shown.split() if word.startswith("/")]
    return directory


def test_files_of_the_daemon(server, branches, shell, confined):
    api = os.path.join(os.path.dirname(sockets(server, "attacker")), "api")
    secret = [
        *glob.glob(os.path.join(server.home, "keys", "*.json")),
        *glob.glob(os.path.join(server.home, "keys", "signing", "*")),
        os.path.join(server.home, "keys", "ca.key"),
        os.path.join(server.home, "meta.db"),
        f"{api}.key",
    ]
    assert len(secret) >= 6
    for path in secret:
        assert os.path.isfile(path), path
        said = shell(f"cat {path}")
        assert "ermission denied" in said and "it failed" in said, f"{path}: {said}"
    # Its own it reads, and so would the rest if it could.
    uid = branches["attacker"].uid
    [own] = glob.glob(os.path.join(server.home, "branches", uid, "**", "postmaster.pid"), recursive=True)
    assert "it failed" not in shell(f"cat {own}")


def test_the_daemons_socket(server, shell, confined):
    """It may be connected to; who cannot show the key beside it is refused."""
    api = os.path.join(os.path.dirname(sockets(server, "attacker")), "api.sock")
    assert os.path.exists(api)
    quoted = CALL.replace('"', '\\"')
    said = shell(f'python3 -I -c "{quoted}" {api}')
    assert "HTTP/1.1 403" in said and "PERMISSION_DENIED" in said, said
    assert "projects/shop" not in said, said


def test_another_branchs_socket(server, branches, shell):
    """Landlock forbids nobody to connect; the other server asks for a secret that is its own."""
    directory = sockets(server, "victim")
    assert os.path.exists(os.path.join(directory, ".s.PGSQL.5432"))
    [keys] = [os.path.join(server.home, "keys", f"{branches['attacker'].uid}.json")]
    with open(keys, encoding="utf-8") as file:
        own = [secrets["admin_password"] for secrets in json.load(file)["candidates"]]
    server.psql("shop/attacker", "CREATE EXTENSION IF NOT EXISTS dblink")
    connect = "SELECT dblink_connect('host={} user=anabranch dbname=postgres {}')"
    for password in own:
        done = try_psql(server, connect.format(directory, f"password={password}"))
        assert done.returncode != 0 and "password authentication failed" in done.stdout + done.stderr, done
    done = try_psql(server, connect.format(directory, ""))
    assert done.returncode != 0 and "no password supplied" in done.stdout + done.stderr, done
    # The way is right: at home the same leads to a session.
    at_home = try_psql(server, connect.format(sockets(server, "attacker"), f"password={own[0]}"))
    assert at_home.returncode == 0, at_home


def try_psql(server, statement):
    place = ("psql", "attacker", "--project", "shop", "--superuser")
    return server.try_ana(*place, "--", "-c", statement)
