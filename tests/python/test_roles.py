"""Roles and databases of a branch through the unmodified SDK."""

import psycopg2
import pytest
from databricks.sdk.common.types.fieldmask import FieldMask
from databricks.sdk.errors import AlreadyExists, BadRequest, InvalidParameterValue, NotFound
from databricks.sdk.service import postgres as pg

from server import OWNER


@pytest.fixture(scope="module")
def branch(w):
    """The only branch of a project for this file, whose roles may log in with passwords."""
    spec = pg.ProjectSpec(enable_pg_native_login=True)
    project = w.postgres.create_project(project=pg.Project(spec=spec), project_id="roles").wait()
    yield project.status.default_branch
    w.postgres.delete_project(name=project.name, purge=True).wait()


@pytest.fixture
def connect(server, w, branch):
    """Opens sessions, of the project's owner unless somebody else is named with a password."""
    sessions = []

    def connect(database, user=OWNER, password=None):
        endpoint = w.postgres.get_endpoint(name=f"{branch}/endpoints/primary")
        if password is None:
            password = w.postgres.generate_database_credential(endpoint=endpoint.name).token
        session = psycopg2.connect(
            host=endpoint.status.hosts.host,
            port=w.api_client.do("GET", f"/api/2.0/postgres/{endpoint.name}")["anabranch"]["port"],
            dbname=database,
            user=user,
            password=password,
            sslmode="require",
        )
        session.autocommit = True
        sessions.append(session)
        return session.cursor()

    yield connect
    for session in sessions:
        session.close()


def role(name, **spec):
    return pg.Role(spec=pg.RoleRoleSpec(postgres_role=name, **spec))


def database(name, owner):
    return pg.Database(spec=pg.DatabaseDatabaseSpec(postgres_database=name, role=owner))


def finished(operation, name):
    """What an operation gave. It lies below the resource, and is there to be asked for afterwards."""
    assert operation.name().startswith(f"{name}/operations/")
    result = operation.wait()
    assert operation.done()
    return result


def test_a_role_lives_and_goes(w, branch, connect):
    api, name = w.postgres, f"{branch}/roles/app-role"
    made = finished(api.create_role(parent=branch, role=role("app_role"), role_id="app-role"), name)
    assert (made.name, made.parent, made.role_id, made.spec) == (name, branch, "app-role", None)
    assert made.status.postgres_role == "app_role"
    # `IDENTITY_TYPE_UNSPECIFIED`, which the SDK does not know.
    assert made.status.identity_type is None
    assert made.status.auth_method == pg.RoleAuthMethod.PG_PASSWORD_SCRAM_SHA_256
    assert made.status.attributes == pg.RoleAttributes(bypassrls=False, createdb=False, createrole=False)
    assert not made.status.membership_roles
    assert api.get_role(name=name).status == made.status
    assert [other.role_id for other in api.list_roles(parent=branch)] == ["ana-example-org", "app-role"]

    for wrong in ({"role": role("app_role")}, {"role": role("app_role"), "role_id": "app-role"}):
        with pytest.raises(BadRequest, match="^role with that name already exists") as caught:
            api.create_role(parent=branch, **wrong)
        assert not isinstance(caught.value, (AlreadyExists, InvalidParameterValue))
    spec = {"membership_roles": [pg.RoleMembershipRole.DATABRICKS_SUPERUSER]}
    replaced = api.create_role(
        parent=branch, role=role("app_role", **spec), role_id="app-role", replace_existing=True
    ).wait()
    assert replaced.create_time == made.create_time
    assert replaced.status.membership_roles == [pg.RoleMembershipRole.DATABRICKS_SUPERUSER]

    told = w.api_client.do("POST", f"/api/anabranch/v1/{name}/reset-password", body={})
    cursor = connect("databricks_postgres", "app_role", told["password"])
    cursor.execute("SELECT session_user")
    assert cursor.fetchone() == ("app_role",)
    with pytest.raises(psycopg2.OperationalError, match="authentication failed"):
        connect("databricks_postgres", "app_role", told["password"][::-1])

    assert finished(api.delete_role(name=name), name) is None
    for call in (api.get_role, api.delete_role):
        with pytest.raises(NotFound, match="^role id not found"):
            call(name=name)


def test_a_role_is_changed_by_mask(w, branch):
    api, name = w.postgres, f"{branch}/roles/masked"
    superuser = [pg.RoleMembershipRole.DATABRICKS_SUPERUSER]
    begin = role("masked", attributes=pg.RoleAttributes(createrole=True), membership_roles=superuser)
    made = api.create_role(parent=branch, role=begin, role_id="masked").wait()

    def change(path, **spec):
        operation = api.update_role(name=name, role=role("masked", **spec), update_mask=FieldMask([path]))
        return finished(operation, name).status

    wanted = pg.RoleAttributes(bypassrls=True, createdb=True, createrole=False)
    changed = change("spec.attributes.createdb", attributes=wanted)
    assert changed.attributes == pg.RoleAttributes(bypassrls=False, createdb=True, createrole=True)
    assert changed.membership_roles == superuser
    # The SDK cannot send an empty list; to name the field is to clear it.
    assert not change("spec.membership_roles", membership_roles=[]).membership_roles
    assert change("spec.attributes", attributes=wanted).attributes == wanted
    for path in ("spec.postgres_role", "spec.auth_method", "spec.identity_type"):
        with pytest.raises(InvalidParameterValue, match="^Unknown field path in update_mask"):
            change(path)
    after = api.get_role(name=name)
    assert after.status.attributes == wanted and after.create_time == made.create_time
    api.delete_role(name=name).wait()


def test_wrong_roles(w, branch):
    api = w.postgres
    for wrong in ({"role_id": "no"}, {"role_id": "No-Role"}):
        with pytest.raises(InvalidParameterValue, match="^Field 'role_id' must be 4-63 characters"):
            api.create_role(parent=branch, role=role("x"), **wrong)
    with pytest.raises(InvalidParameterValue, match="'role.spec.postgres_role' is required"):
        api.create_role(parent=branch, role=pg.Role(spec=pg.RoleRoleSpec()))
    with pytest.raises(NotFound, match="^branch id not found"):
        api.create_role(parent=f"{branch}x", role=role("x"))
    with pytest.raises(NotFound, match="^role id not found"):
        api.update_role(
            name=f"{branch}/roles/none", role=role("x"), update_mask=FieldMask(["spec.membership_roles"])
        )


def test_a_database_lives_and_goes(w, branch, connect):
    api, name = w.postgres, f"{branch}/databases/app-db"
    [owner, *_] = api.list_roles(parent=branch)
    other = api.create_role(parent=branch, role=role("other_owner"), role_id="other-owner").wait()
    operation = api.create_database(
        parent=branch, database=database("app_db", owner.name), database_id="app-db"
    )
    made = finished(operation, name)
    assert (made.name, made.parent, made.database_id, made.spec) == (name, branch, "app-db", None)
    assert (made.status.postgres_database, made.status.role) == ("app_db", owner.name)
    assert api.get_database(name=name).status == made.status
    ids = [other.database_id for other in api.list_databases(parent=branch)]
    assert ids == ["databricks-postgres", "app-db"]
    cursor = connect("app_db")
    cursor.execute("CREATE TABLE kept AS SELECT 7 AS a")
    cursor.connection.close()

    for wrong in ({}, {"database_id": "app-db"}):
        with pytest.raises(BadRequest, match="^database with that name already exists") as caught:
            api.create_database(parent=branch, database=database("app_db", owner.name), **wrong)
        assert not isinstance(caught.value, (AlreadyExists, InvalidParameterValue))
    adopted = api.create_database(
        parent=branch, database=database("app_db", owner.name), database_id="app-db", replace_existing=True
    )
    assert adopted.wait().create_time == made.create_time

    def change(path, spec):
        return finished(api.update_database(name=name, database=spec, update_mask=FieldMask([path])), name)

    # The body is whole, the mask takes one of it.
    renamed = change("spec.postgres_database", database("renamed", other.name))
    assert (renamed.status.postgres_database, renamed.status.role) == ("renamed", owner.name)
    assert (renamed.name, renamed.create_time) == (name, made.create_time)
    cursor = connect("renamed")
    cursor.execute("SELECT a FROM kept")
    assert cursor.fetchone() == (7,)
    given = change("spec.role", database("ignored", other.name)).status
    assert (given.postgres_database, given.role) == ("renamed", other.name)
    with pytest.raises(InvalidParameterValue, match="^Unknown field path in update_mask"):
        change("spec.owner", database("x", owner.name))

    assert finished(api.delete_database(name=name), name) is None
    with pytest.raises(psycopg2.OperationalError):
        cursor.execute("SELECT 1")
    for call in (api.get_database, api.delete_database):
        with pytest.raises(NotFound, match="^database id not found"):
            call(name=name)
    api.delete_role(name=other.name).wait()


def test_wrong_databases(w, branch):
    api = w.postgres
    # The SDK itself wants an owner; other clients send none.
    without = {"spec": {"postgres_database": "x"}}
    text = r"^Field 'database\.spec\.role' is required, expected non-default value \(not \"\"\)!"
    with pytest.raises(InvalidParameterValue, match=text):
        path = f"/api/2.0/postgres/{branch}/databases"
        w.api_client.do("POST", path, query={"database_id": "x"}, body=without)
    with pytest.raises(NotFound, match='^role not found; role_id:"nobody"'):
        api.create_database(parent=branch, database=database("x", f"{branch}/roles/nobody"))
    [owner, *_] = api.list_roles(parent=branch)
    with pytest.raises(InvalidParameterValue, match="^Field database_id must match pattern"):
        api.create_database(parent=branch, database=database("x", owner.name), database_id="x-")
    with pytest.raises(NotFound, match="^database id not found"):
        api.update_database(
            name=f"{branch}/databases/none",
            database=database("x", owner.name),
            update_mask=FieldMask(["spec.postgres_database"]),
        )
    assert [found.database_id for found in api.list_databases(parent=branch)] == ["databricks-postgres"]


def test_an_owner_goes_only_with_an_heir(w, branch, connect):
    api = w.postgres
    old = api.create_role(parent=branch, role=role("old"), role_id="the-old").wait()
    heir = api.create_role(parent=branch, role=role("heir"), role_id="the-heir").wait()
    olds = api.create_database(parent=branch, database=database("olds", old.name), database_id="olds").wait()
    cursor = connect("databricks_postgres")
    cursor.execute("GRANT CREATE ON SCHEMA public TO old; GRANT old TO CURRENT_USER")
    cursor.execute("CREATE TABLE kept AS SELECT 7 AS a; ALTER TABLE kept OWNER TO old")

    with pytest.raises(BadRequest, match="some objects depend on it"):
        api.delete_role(name=old.name)
    with pytest.raises(InvalidParameterValue, match="another role"):
        api.delete_role(name=old.name, reassign_owned_to=old.name)
    with pytest.raises(NotFound, match='^role not found; role_id:"nobody"'):
        api.delete_role(name=old.name, reassign_owned_to=f"{branch}/roles/nobody")
    assert finished(api.delete_role(name=old.name, reassign_owned_to=heir.name), old.name) is None
    cursor.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'kept'")
    assert cursor.fetchone() == ("heir",)
    assert api.get_database(name=olds.name).status.role == heir.name
    cursor.execute("DROP TABLE kept")
    api.delete_database(name=olds.name).wait()
    api.delete_role(name=heir.name).wait()


def test_lists_come_in_pages(w, branch):
    api = w.postgres
    names = [f"page_{number}" for number in range(3)]
    roles = [api.create_role(parent=branch, role=role(name)).wait().name for name in names]
    wanted = [database(name, roles[0]) for name in names]
    databases = [api.create_database(parent=branch, database=one).wait().name for one in wanted]
    for every, made in ((api.list_roles, roles), (api.list_databases, databases)):
        whole = [found.name for found in every(parent=branch)]
        assert whole[1:] == made
        assert [found.name for found in every(parent=branch, page_size=1)] == whole
        assert [found.name for found in every(parent=branch, page_size=3)] == whole
    for name in databases:
        api.delete_database(name=name).wait()
    for name in roles:
        api.delete_role(name=name).wait()
