"""Python's drivers against the front door. The environment says where it is: PGHOST, PGPORT, PGUSER,
PGDATABASE, PGPASSWORD, PGSSLROOTCERT. Each driver logs in (and fails to), and does what it does.

Run by tests/tests/proxy_drivers.rs; prints one line a check."""

import asyncio
import os
import ssl
import sys
import threading

HOST, PORT = os.environ["PGHOST"], int(os.environ["PGPORT"])
USER, PASSWORD = os.environ["PGUSER"], os.environ["PGPASSWORD"]
DATABASE, CA = os.environ["PGDATABASE"], os.environ["PGSSLROOTCERT"]
# What these libraries would take from the environment is said in the calls.
for name in list(os.environ):
    if name.startswith("PG"):
        del os.environ[name]

ROWS = 20_000


def check(driver, what, holds):
    print(f"{driver}: {what}: {'ok' if holds else 'FAILED'}")
    if not holds:
        sys.exit(1)


def raises(kind, call):
    try:
        call()
    except kind as error:
        return str(error)
    return ""


def libpq_like(driver, connect, errors, cancelled):
    """psycopg2 and psycopg 3 have nearly the same face."""

    def login(**changes):
        known = dict(host=HOST, port=PORT, user=USER, password=PASSWORD, dbname=DATABASE)
        return connect(**{**known, "sslmode": "verify-full", "sslrootcert": CA, **changes})

    connection = login()
    cursor = connection.cursor()
    cursor.execute("SELECT session_user, count(*) FROM generate_series(1, %s) GROUP BY 1", (ROWS,))
    check(driver, "verify-full, parameters", cursor.fetchone() == (USER, ROWS))
    connection.rollback()
    text = raises(errors, lambda: login(password="wrong"))
    check(driver, "wrong password", "authentication failed" in text)
    text = raises(errors, lambda: login(sslmode="disable"))
    check(driver, "plain text", "encrypted" in text)
    text = raises(errors, lambda: login(user="nobody@example.org"))
    check(driver, "unknown role", "authentication failed" in text)
    text = raises(errors, lambda: login(dbname="nowhere"))
    check(driver, "unknown database", "does not exist" in text)
    check(driver, "sslmode=require", login(sslmode="require", sslrootcert="").cursor() is not None)
    timer = threading.Timer(0.3, connection.cancel)
    timer.start()
    check(driver, "cancel", bool(raises(cancelled, lambda: cursor.execute("SELECT pg_sleep(600)"))))
    timer.join()
    connection.rollback()
    cursor.execute("CREATE TEMP TABLE t (a int, b text); INSERT INTO t SELECT g, 'x' FROM generate_series(1, 9) g")
    cursor.executemany("INSERT INTO t VALUES (%s, %s)", [(g, "y" * 1000) for g in range(1000)])
    cursor.execute("SELECT count(*), sum(length(b)) FROM t")
    check(driver, "several statements, executemany", cursor.fetchone() == (1009, 1_000_009))
    connection.commit()
    return login


def psycopg2_checks():
    import io

    import psycopg2
    import psycopg2.errors
    import psycopg2.extras

    login = libpq_like(
        "psycopg2", psycopg2.connect, psycopg2.OperationalError, psycopg2.errors.QueryCanceled
    )
    connection = login()
    cursor = connection.cursor()
    cursor.execute("CREATE TEMP TABLE t (a int)")
    cursor.copy_from(io.StringIO("".join(f"{row}\n" for row in range(ROWS))), "t")
    out = io.StringIO()
    cursor.copy_expert("COPY t TO STDOUT", out)
    check("psycopg2", "copy", out.getvalue().count("\n") == ROWS)
    connection.commit()
    connection.autocommit = True
    cursor.execute("SET search_path = public")
    check("psycopg2", "autocommit", connection.status == psycopg2.extensions.STATUS_READY)
    replication = login(connection_factory=psycopg2.extras.PhysicalReplicationConnection)
    cursor = replication.cursor()
    cursor.execute("IDENTIFY_SYSTEM")
    check("psycopg2", "replication protocol", len(cursor.fetchone()) == 4)


def psycopg3_checks():
    import psycopg
    import psycopg.errors

    login = libpq_like(
        "psycopg 3", psycopg.connect, psycopg.OperationalError, psycopg.errors.QueryCanceled
    )
    with login() as connection:
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMP TABLE t (a int)")
            with cursor.copy("COPY t FROM STDIN") as copy:
                for row in range(ROWS):
                    copy.write_row((row,))
            with connection.pipeline():
                results = [connection.execute("SELECT %s::int + 1", (row,)) for row in range(100)]
            check("psycopg 3", "pipeline", [r.fetchone()[0] for r in results] == list(range(1, 101)))
            cursor.execute("SELECT count(*) FROM t")
            check("psycopg 3", "copy", cursor.fetchone() == (ROWS,))


async def asyncpg_checks():
    import asyncpg

    context = ssl.create_default_context(cafile=CA)

    async def login(**changes):
        known = dict(host=HOST, port=PORT, user=USER, password=PASSWORD, database=DATABASE)
        return await asyncpg.connect(**{**known, "ssl": context, **changes})

    connection = await login()
    rows = await connection.fetch("SELECT session_user, g FROM generate_series(1, $1::int) g", ROWS)
    check("asyncpg", "certificate and name checked, parameters", len(rows) == ROWS and rows[0][0] == USER)
    try:
        await login(password="wrong")
        check("asyncpg", "wrong password", False)
    except asyncpg.InvalidPasswordError as error:
        check("asyncpg", "wrong password", "authentication failed" in str(error))
    try:
        await login(ssl=False)
        check("asyncpg", "plain text", False)
    except asyncpg.InvalidAuthorizationSpecificationError as error:
        check("asyncpg", "plain text", "encrypted" in str(error))
    try:
        await asyncio.wait_for(connection.execute("SELECT pg_sleep(600)"), 0.3)
        check("asyncpg", "cancel", False)
    except asyncio.TimeoutError:
        check("asyncpg", "cancel", await connection.fetchval("SELECT 1") == 1)
    await connection.execute("CREATE TEMP TABLE t (a int)")
    await connection.copy_records_to_table("t", records=[(row,) for row in range(ROWS)])
    check("asyncpg", "binary copy", await connection.fetchval("SELECT count(*) FROM t") == ROWS)
    heard = asyncio.get_running_loop().create_future()
    await connection.add_listener("shop", lambda *call: heard.done() or heard.set_result(call[3]))
    other = await login()
    await other.execute("NOTIFY shop, 'hello'")
    check("asyncpg", "notifications", await heard == "hello")
    pool = await asyncpg.create_pool(
        host=HOST, port=PORT, user=USER, password=PASSWORD, database=DATABASE, ssl=context, max_size=10
    )
    answers = await asyncio.gather(*(pool.fetchval("SELECT $1::int", row) for row in range(200)))
    check("asyncpg", "pool", answers == list(range(200)))
    await pool.close()
    await other.close()
    await connection.close()


def pg8000_checks():
    import pg8000.dbapi

    context = ssl.create_default_context(cafile=CA)

    def login(**changes):
        known = dict(host=HOST, port=PORT, user=USER, password=PASSWORD, database=DATABASE)
        return pg8000.dbapi.connect(**{**known, "ssl_context": context, **changes})

    connection = login()
    cursor = connection.cursor()
    cursor.execute("SELECT session_user, count(*) FROM generate_series(1, %s) GROUP BY 1", (ROWS,))
    check("pg8000", "certificate and name checked, parameters", list(cursor.fetchone()) == [USER, ROWS])
    text = raises(pg8000.dbapi.DatabaseError, lambda: login(password="wrong"))
    check("pg8000", "wrong password", "28P01" in text)
    text = raises(pg8000.dbapi.DatabaseError, lambda: login(ssl_context=False))
    check("pg8000", "plain text", "28000" in text)
    connection.close()


psycopg2_checks()
psycopg3_checks()
asyncio.run(asyncpg_checks())
pg8000_checks()
print("all drivers: ok")
