"""Replication through the front door, with a driver that speaks it."""

import io
import select
import time

import psycopg2
import psycopg2.errors
import pytest
from databricks.sdk.service.postgres import Branch, BranchSpec
from psycopg2.extras import LogicalReplicationConnection, PhysicalReplicationConnection

from server import PATIENCE, of_libpq


@pytest.fixture(scope="module")
def place(server, w, shop):
    """A branch whose role has the right to replicate, which it had not at first."""
    spec = BranchSpec(no_expiry=True)
    branch = w.postgres.create_branch(parent=shop.name, branch=Branch(spec=spec), branch_id="replicated").wait()
    place = server.place("shop/replicated")
    for kind in (LogicalReplicationConnection, PhysicalReplicationConnection):
        with pytest.raises(psycopg2.OperationalError, match="permission denied to start WAL sender"):
            connect(place, connection_factory=kind)
    # Nobody gives what they have not.
    with connect(place) as owner, owner.cursor() as cursor:
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute(f'ALTER ROLE "{place["role"]}" REPLICATION')
    owner.close()
    server.psql("shop/replicated", f'ALTER ROLE "{place["role"]}" REPLICATION')
    yield place
    w.postgres.delete_branch(name=branch.name, purge=True).wait()


def connect(place, **more):
    return psycopg2.connect(**of_libpq(place, **more))


def messages(cursor):
    """What is streamed, one by one."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        message = cursor.read_message()
        if message is not None:
            yield message
        else:
            select.select([cursor], [], [], 1)
    raise AssertionError("nothing more came")


@pytest.mark.parametrize("plugin", ["test_decoding", "pgoutput"])
def test_changes(place, plugin):
    with connect(place) as writer, writer.cursor() as sql:
        sql.execute(f"CREATE TABLE seen_by_{plugin} (v text)")
        sql.execute(f"CREATE PUBLICATION of_{plugin} FOR TABLE seen_by_{plugin}")
    stream = connect(place, connection_factory=LogicalReplicationConnection)
    cursor = stream.cursor()
    cursor.create_replication_slot(f"by_{plugin}", output_plugin=plugin)
    with writer, writer.cursor() as sql:
        sql.execute(f"INSERT INTO seen_by_{plugin} VALUES ('a change')")
    options = {"proto_version": "1", "publication_names": f"of_{plugin}"} if plugin == "pgoutput" else {}
    cursor.start_replication(slot_name=f"by_{plugin}", options=options)
    for message in messages(cursor):
        if b"a change" in message.payload:
            cursor.send_feedback(flush_lsn=message.data_start, force=True)
            break
    writer.close()
    stream.close()


def test_the_physical_log(place):
    stream = connect(place, connection_factory=PhysicalReplicationConnection)
    cursor = stream.cursor()
    cursor.create_replication_slot("standby")
    cursor.execute("IDENTIFY_SYSTEM")
    _, _, now, _ = cursor.fetchone()
    cursor.start_replication(slot_name="standby", start_lsn=now)
    with connect(place) as writer, writer.cursor() as sql:
        sql.execute("CREATE TABLE logged AS SELECT 1 AS a")
    writer.close()
    assert next(messages(cursor)).payload
    stream.close()


def test_a_base_backup(place):
    session = connect(place, connection_factory=PhysicalReplicationConnection)
    backup = io.BytesIO()
    session.cursor().copy_expert("BASE_BACKUP (LABEL 'test', CHECKPOINT 'fast', WAL, MANIFEST 'yes')", backup)
    for file in (b"backup_label", b"global/pg_control", b"pg_wal/00000001", b'"Manifest-Checksum"'):
        assert file in backup.getvalue()
    session.close()
