"""The drivers that people use, with a token in place of a password, over TLS that is checked in full."""

import asyncio
import io
import os
import shutil
import ssl
import subprocess
import threading

import asyncpg
import pg8000.dbapi
import psycopg
import psycopg.errors
import psycopg2
import psycopg2.errors
import psycopg2.extensions
import pytest

from server import ROOT, Server, of_libpq

ROWS = 20_000


@pytest.fixture(scope="module")
def place(server, shop):
    """How to connect to a branch."""
    return server.place("shop/production")


LIBPQ = {
    "psycopg2": (psycopg2.connect, psycopg2.OperationalError, psycopg2.errors.QueryCanceled),
    "psycopg 3": (psycopg.connect, psycopg.OperationalError, psycopg.errors.QueryCanceled),
}


@pytest.mark.parametrize("driver", LIBPQ)
def test_libpq(place, driver):
    connect, refused, canceled = LIBPQ[driver]
    connection = connect(**of_libpq(place))
    cursor = connection.cursor()
    cursor.execute("SELECT session_user, count(*) FROM generate_series(1, %s) GROUP BY 1", (ROWS,))
    assert cursor.fetchone() == (place["role"], ROWS)
    connection.rollback()
    timer = threading.Timer(0.3, connection.cancel)
    timer.start()
    with pytest.raises(canceled):
        cursor.execute("SELECT pg_sleep(600)")
    timer.join()
    connection.rollback()
    cursor.execute("CREATE TEMP TABLE t (a int, b text); INSERT INTO t SELECT g, 'x' FROM generate_series(1, 9) g")
    cursor.executemany("INSERT INTO t VALUES (%s, %s)", [(g, "y" * 1000) for g in range(1000)])
    cursor.execute("SELECT count(*), sum(length(b)) FROM t")
    assert cursor.fetchone() == (1009, 1_000_009)
    connection.close()
    # As the vendor's samples connect.
    connect(**of_libpq(place, sslmode="require", sslrootcert="")).close()
    for changes, text in [
        ({"password": "wrong"}, "authentication failed"),
        ({"user": "nobody@example.org"}, "authentication failed"),
        ({"sslmode": "disable"}, "encrypted"),
        ({"dbname": "nowhere"}, "does not exist"),
        ({"host": "localhost", "hostaddr": place["host"], "password": "wrong"}, "authentication failed"),
        ({"host": "db.example.org", "hostaddr": place["host"]}, "does not match host name"),
    ]:
        with pytest.raises(refused, match=text):
            connect(**of_libpq(place, **changes))


def test_psycopg2(place):
    connection = psycopg2.connect(**of_libpq(place))
    cursor = connection.cursor()
    cursor.execute("CREATE TEMP TABLE t (a int)")
    cursor.copy_from(io.StringIO("".join(f"{row}\n" for row in range(ROWS))), "t")
    out = io.StringIO()
    cursor.copy_expert("COPY t TO STDOUT", out)
    assert out.getvalue().count("\n") == ROWS
    connection.commit()
    connection.autocommit = True
    cursor.execute("SET search_path = public")
    assert connection.status == psycopg2.extensions.STATUS_READY
    connection.close()


def test_psycopg3(place):
    with psycopg.connect(**of_libpq(place)) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE t (a int)")
        with cursor.copy("COPY t FROM STDIN") as copy:
            for row in range(ROWS):
                copy.write_row((row,))
        with connection.pipeline():
            results = [connection.execute("SELECT %s::int + 1", (row,)) for row in range(100)]
        assert [result.fetchone()[0] for result in results] == list(range(1, 101))
        cursor.execute("SELECT count(*) FROM t")
        assert cursor.fetchone() == (ROWS,)


def test_asyncpg(place):
    asyncio.run(of_asyncpg(place))


async def of_asyncpg(place):
    known = {
        "host": place["host"],
        "port": place["port"],
        "user": place["role"],
        "password": place["password"],
        "database": place["database"],
        "ssl": ssl.create_default_context(cafile=place["ca_file"]),
    }
    connection = await asyncpg.connect(**known)
    rows = await connection.fetch("SELECT session_user, g FROM generate_series(1, $1::int) g", ROWS)
    assert len(rows) == ROWS and rows[0][0] == place["role"]
    with pytest.raises(asyncpg.InvalidPasswordError, match="authentication failed"):
        await asyncpg.connect(**{**known, "password": "wrong"})
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError, match="encrypted"):
        await asyncpg.connect(**{**known, "ssl": False})
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(connection.execute("SELECT pg_sleep(600)"), 0.3)
    assert await connection.fetchval("SELECT 1") == 1
    await connection.execute("CREATE TEMP TABLE t (a int)")
    await connection.copy_records_to_table("t", records=[(row,) for row in range(ROWS)])
    assert await connection.fetchval("SELECT count(*) FROM t") == ROWS
    heard = asyncio.get_running_loop().create_future()
    await connection.add_listener("shop", lambda *call: heard.done() or heard.set_result(call[3]))
    other = await asyncpg.connect(**known)
    await other.execute("NOTIFY shop, 'hello'")
    assert await asyncio.wait_for(heard, 60) == "hello"
    pool = await asyncpg.create_pool(**known, max_size=10)
    answers = await asyncio.gather(*(pool.fetchval("SELECT $1::int", row) for row in range(200)))
    assert answers == list(range(200))
    await pool.close()
    await other.close()
    await connection.close()


def test_pg8000(place):
    """A driver that shares no code with libpq."""
    known = {
        "host": place["host"],
        "port": place["port"],
        "user": place["role"],
        "password": place["password"],
        "database": place["database"],
        "ssl_context": ssl.create_default_context(cafile=place["ca_file"]),
    }
    connection = pg8000.dbapi.connect(**known)
    cursor = connection.cursor()
    cursor.execute("SELECT session_user, count(*) FROM generate_series(1, %s) GROUP BY 1", (ROWS,))
    assert list(cursor.fetchone()) == [place["role"], ROWS]
    connection.close()
    for changes, code in [({"password": "wrong"}, "28P01"), ({"ssl_context": False}, "28000")]:
        with pytest.raises(pg8000.dbapi.DatabaseError, match=code):
            pg8000.dbapi.connect(**{**known, **changes})


def test_node_postgres(place):
    sources = os.path.join(ROOT, "tests", "node")
    # Fetched once, beside what is built; anew when the wishes have changed.
    kept = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "node")
    wanted, mark = os.path.join(sources, "package.json"), os.path.join(kept, "installed.json")
    if not os.path.exists(mark) or open(mark).read() != open(wanted).read():
        shutil.rmtree(kept, ignore_errors=True)
        os.makedirs(kept)
        shutil.copy(wanted, kept)
        subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=kept, check=True)
        shutil.copy(wanted, mark)
    script = shutil.copy(os.path.join(sources, "drivers.js"), kept)
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "PGHOST": place["host"],
        "PGPORT": str(place["port"]),
        "PGUSER": place["role"],
        "PGPASSWORD": place["password"],
        "PGDATABASE": place["database"],
        "PGSSLROOTCERT": place["ca_file"],
    }
    done = subprocess.run(["node", script], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "all ok" in done.stdout, done.stdout + done.stderr


def test_what_ana_url_prints(server, place):
    """Connection strings are good as they are; nobody adds anything."""
    for form in ["uri", "dsn"]:
        url = server.ana("url", "production", "--project", "shop", "--format", form).strip()
        assert "verify-full" in url
        connection = psycopg2.connect(url)
        assert connection.info.ssl_in_use and connection.info.user == place["role"]
        connection.close()
    assert server.ana("ca").startswith("-----BEGIN CERTIFICATE-----")
    assert server.ana("ca", "--path").strip() == place["ca_file"]


def test_names_below_a_domain():
    """With a domain the host that an endpoint shows is a name, by which it is told from the others."""
    server = Server("--domain", "db.example.org")
    try:
        client = server.client(server.token())
        from databricks.sdk.service.postgres import Project

        client.postgres.create_project(project=Project(), project_id="shop").wait()
        endpoint = next(iter(client.postgres.list_endpoints(parent="projects/shop/branches/production")))
        place = server.place("shop/production")
        assert endpoint.status.hosts.host == place["host"] == f"{endpoint.uid}.db.example.org"
        # What DNS would do.
        connection = psycopg2.connect(**of_libpq(place, hostaddr="127.0.0.1"))
        cursor = connection.cursor()
        cursor.execute("SELECT session_user")
        assert cursor.fetchone() == (place["role"],)
        connection.close()
        with pytest.raises(psycopg2.OperationalError, match="does not exist"):
            psycopg2.connect(**of_libpq(place, host="ep-none.db.example.org", hostaddr="127.0.0.1"))
    finally:
        server.stop()
