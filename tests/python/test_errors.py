"""Errors that need a daemon of their own, as the SDK raises them. The other tests meet the rest: what is
wrong, missing, taken, forbidden or not there yet. The classes for 499, 504 and lost data no answer has."""

import contextlib
import os
import threading

import psycopg2
import pytest
import requests
from databricks.sdk import WorkspaceClient
from databricks.sdk.common.types.fieldmask import FieldMask
from databricks.sdk.core import Config
from databricks.sdk.errors import (
    AlreadyExists,
    InternalError,
    InvalidState,
    NotFound,
    RequestLimitExceeded,
    ResourceConflict,
    TemporarilyUnavailable,
    TooManyRequests,
    Unauthenticated,
)
from databricks.sdk.service import postgres as pg

from server import PATIENCE, Server, of_libpq, until

SHOP = "projects/shop"


def forever():
    return pg.Branch(spec=pg.BranchSpec(no_expiry=True))


@pytest.fixture
def small():
    """A daemon with room for one compute, and little patience."""
    server = Server("--memory", "160MiB", "--patience", "1s")
    try:
        server.w = server.client(server.token())
        server.w.postgres.create_project(project=pg.Project(), project_id="shop").wait()
        server.w.postgres.create_branch(parent=SHOP, branch=forever(), branch_id="dev").wait()
        yield server
    finally:
        server.stop()


def impatient(server, token):
    """The SDK sends again what is answered 429 or 503, usually for five minutes."""
    return WorkspaceClient(config=Config(host=server.host, token=token, retry_timeout_seconds=1))


def role(name):
    return pg.Role(spec=pg.RoleRoleSpec(postgres_role=name))


def test_a_host_without_room(small):
    """503: worth a retry, and the SDK does."""
    place = small.place("shop/production")
    busy = psycopg2.connect(**of_libpq(place))
    busy.cursor().execute("SELECT 1")
    dev = f"{SHOP}/branches/dev"
    with pytest.raises(TimeoutError) as given_up:
        impatient(small, small.token()).postgres.create_role(parent=dev, role=role("app"))
    cause = given_up.value.__cause__
    assert type(cause) is TemporarilyUnavailable and cause.error_code == "TEMPORARILY_UNAVAILABLE"
    assert "this host has no room" in str(cause)
    # The transaction in progress was left alone; once it has ended, a client with patience gets its turn.
    busy.cursor().execute("SELECT 1")
    busy.close()
    assert small.w.postgres.create_role(parent=dev, role=role("app")).wait().status.postgres_role == "app"


def test_what_cannot_be_done_in_this_state(small):
    """400 INVALID_STATE: a disabled endpoint is not woken for a change."""
    endpoint = f"{SHOP}/branches/dev/endpoints/primary"
    kind = pg.EndpointType.ENDPOINT_TYPE_READ_WRITE

    def disable(disabled):
        body = pg.Endpoint(spec=pg.EndpointSpec(endpoint_type=kind, disabled=disabled))
        mask = FieldMask(["spec.disabled"])
        assert small.w.postgres.update_endpoint(name=endpoint, endpoint=body, update_mask=mask).wait()

    disable(True)
    with pytest.raises(InvalidState, match="disabled") as caught:
        small.w.postgres.create_role(parent=f"{SHOP}/branches/dev", role=role("app"))
    assert caught.value.error_code == "INVALID_STATE"
    disable(False)


def test_a_server_that_does_not_start(small):
    """500: nothing that the caller can do about."""
    small.psql("shop/dev", "ALTER SYSTEM SET shared_preload_libraries = 'nowhere'")
    small.ana("endpoint", "suspend", "dev", "--project", "shop")
    with pytest.raises(InternalError, match="nowhere") as caught:
        small.w.postgres.create_role(parent=f"{SHOP}/branches/dev", role=role("app"))
    assert caught.value.error_code == "INTERNAL_ERROR"


def test_failed_logins_in_flight(small):
    """429, for those alone who do not wait for their answers."""
    wrong, token = "ana_pat_" + 72 * "0", small.token()
    header = {"Authorization": f"Bearer {wrong}"}
    refused, done = [], threading.Event()

    def try_on():
        while not done.is_set():
            answer = requests.get(f"{small.host}/api/2.0/postgres/projects", headers=header, timeout=PATIENCE)
            if answer.status_code == 429:
                # A response that is kept keeps its connection.
                refused.append((answer.json()["error_code"], int(answer.headers["Retry-After"])))
                done.wait(0.1)

    crowd = [threading.Thread(target=try_on) for _ in range(32)]
    for thread in crowd:
        thread.start()
    try:
        until(lambda: refused)
        code, seconds = refused[0]
        assert code == "REQUEST_LIMIT_EXCEEDED" and seconds > 0

        def is_told():
            # Now and then there is room for one more, which is answered in the end.
            try:
                next(iter(impatient(small, wrong).postgres.list_projects()))
            except Unauthenticated:
                return None
            except TimeoutError as given_up:
                return given_up.__cause__
            raise AssertionError("a wrong token was accepted")

        told = until(is_told)
        assert type(told) is RequestLimitExceeded and isinstance(told, TooManyRequests)
        assert small.client(token).current_user.me(), "a right token is always accepted"
    finally:
        done.set()
        for thread in crowd:
            thread.join()


@pytest.fixture
def held():
    """A daemon that stands still in the middle of making the branch `half`."""
    server = Server()
    try:
        token = server.token()
        server.client(token).postgres.create_project(project=pg.Project(), project_id="shop").wait()
        server.restart(ANABRANCH_STAND_STILL="branch-made")
        server.w = server.client(token)
        create = f"{server.host}/api/2.0/postgres/{SHOP}/branches?branch_id=half"
        header = {"Authorization": f"Bearer {token}"}
        body = forever().as_dict()

        def ask():
            # Ends with the daemon.
            with contextlib.suppress(requests.ConnectionError):
                requests.post(create, headers=header, json=body, timeout=PATIENCE)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            until(lambda: "standing still: branch-made" in server.read_log())
            yield server
        finally:
            server.restart()
            asking.join()
        api = server.client(token).postgres
        with pytest.raises(NotFound):
            api.get_branch(name=f"{SHOP}/branches/half")
        api.create_branch(parent=SHOP, branch=forever(), branch_id="half").wait()
    finally:
        server.stop()


def test_what_somebody_else_is_at(held):
    """409 with the word by which clients know that it is worth a retry."""
    api, half = held.w.postgres, f"{SHOP}/branches/half"
    for call in (
        lambda: api.delete_branch(name=half),
        lambda: api.create_branch(parent=SHOP, branch=forever(), branch_id="half"),
        lambda: api.delete_project(name=SHOP),
    ):
        with pytest.raises(ResourceConflict, match="reconciliation") as caught:
            call()
        assert caught.value.error_code == "RESOURCE_CONFLICT"
        assert not isinstance(caught.value, AlreadyExists)
    assert api.get_project(name=SHOP)


def test_an_operation_that_fails(small):
    """The SDK raises no error of the API then, but an exception with the operation's code in its text."""
    api, closed = small.w.postgres, os.path.join(small.home, "branches")
    mode = os.stat(closed).st_mode
    os.chmod(closed, 0o500)
    try:
        operation = api.create_branch(parent=SHOP, branch=forever(), branch_id="half")
        with pytest.raises(Exception, match=r"^operation failed: \[ErrorCode\.INTERNAL_ERROR\] ") as caught:
            operation.wait()
        assert type(caught.value) is Exception
        assert operation.done()
        with pytest.raises(NotFound):
            api.get_branch(name=f"{SHOP}/branches/half")
    finally:
        os.chmod(closed, mode)
    api.create_branch(parent=SHOP, branch=forever(), branch_id="half").wait()
