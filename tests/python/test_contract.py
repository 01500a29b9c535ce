"""Projects, branches, endpoints, compute instances and operations through the unmodified SDK.

The server and the token come from the environment: DATABRICKS_HOST, DATABRICKS_TOKEN. Every method of
the SDK's service has its place in one of the tables at the end.
"""

import ast
import inspect
import os
import time
import uuid

import pytest
from databricks.sdk import WorkspaceClient
from databricks.sdk.common.types.fieldmask import FieldMask
from databricks.sdk.errors import (
    AlreadyExists,
    BadRequest,
    InvalidParameterValue,
    NotFound,
    NotImplemented as Missing,
)
from databricks.sdk.service import postgres as pg
from databricks.sdk.service.postgres import Duration


@pytest.fixture(scope="module")
def client():
    for name in ("DATABRICKS_HOST", "DATABRICKS_TOKEN"):
        assert os.environ.get(name), f"{name} must name the server under test"
    return WorkspaceClient(host=os.environ["DATABRICKS_HOST"], token=os.environ["DATABRICKS_TOKEN"])


@pytest.fixture(scope="module")
def api(client):
    return client.postgres


@pytest.fixture(scope="module")
def project(api):
    """A project of this run; gone for good afterwards, whatever happened to it."""
    name = f"projects/contract-{uuid.uuid4().hex[:8]}"
    made = api.create_project(
        project=pg.Project(
            spec=pg.ProjectSpec(
                display_name="Contract",
                pg_version=17,
                default_endpoint_settings=pg.ProjectDefaultEndpointSettings(
                    autoscaling_limit_min_cu=0.5,
                    autoscaling_limit_max_cu=4.0,
                    suspend_timeout_duration=Duration(seconds=60),
                ),
            )
        ),
        project_id=name.split("/")[1],
    )
    assert made.name().startswith(f"{name}/operations/")
    yield made.wait()
    try:
        api.delete_project(name=name, purge=True).wait()
    except NotFound:
        pass


def branch(api, project, branch_id, **spec):
    spec = spec or {"no_expiry": True}
    made = api.create_branch(
        parent=project.name, branch=pg.Branch(spec=pg.BranchSpec(**spec)), branch_id=branch_id
    )
    return made.wait()


def mask(*paths):
    return FieldMask(list(paths))


def seconds(timestamp):
    return timestamp.seconds


def test_a_project_comes_with_all_it_needs(api, project):
    assert project.uid and project.spec is None
    status = project.status
    assert status.default_branch == f"{project.name}/branches/production"
    assert (status.display_name, status.pg_version) == ("Contract", 17)
    assert status.enable_pg_native_login is False
    assert status.history_retention_duration.seconds == 604800
    assert status.default_endpoint_settings.suspend_timeout_duration.seconds == 60
    assert api.get_project(name=project.name).uid == project.uid
    assert project.name in [other.name for other in api.list_projects(page_size=1)]

    [production] = api.list_branches(parent=project.name)
    assert production.status.branch_id == "production"
    assert production.status.default is True and production.status.source_branch is None
    [primary] = api.list_endpoints(parent=production.name)
    assert primary.status.endpoint_type == pg.EndpointType.ENDPOINT_TYPE_READ_WRITE
    assert primary.status.hosts.host and primary.status.pending_state is None
    assert primary.status.autoscaling_limit_max_cu == 4.0

    with pytest.raises(AlreadyExists, match="project with such id already exists in the workspace"):
        api.create_project(project=pg.Project(), project_id=project.name.split("/")[1])
    for wrong in ("Bad_ID", ""):
        with pytest.raises(InvalidParameterValue):
            api.create_project(project=pg.Project(), project_id=wrong)
    with pytest.raises(NotFound, match="^project id not found"):
        api.get_project(name="projects/none")


def test_a_branch_lives_and_goes(api, project):
    dev = branch(
        api, project, "dev", source_branch=f"{project.name}/branches/production", ttl=Duration(seconds=3600)
    )
    assert dev.uid.startswith("br-")
    assert dev.status.source_branch == f"{project.name}/branches/production"
    assert seconds(dev.status.expire_time) == seconds(dev.create_time) + 3600
    assert dev.status.default is False and dev.status.is_protected is False
    assert dev.status.logical_size_bytes == 0 or dev.status.logical_size_bytes > 0
    assert dev.name in [other.name for other in api.list_branches(parent=project.name)]

    with pytest.raises(AlreadyExists, match="branch with such id already exists"):
        branch(api, project, "dev")
    replaced = api.create_branch(
        parent=project.name,
        branch=pg.Branch(spec=pg.BranchSpec(no_expiry=True)),
        branch_id="dev",
        replace_existing=True,
    ).wait()
    assert replaced.uid == dev.uid and replaced.status.expire_time is None
    with pytest.raises(NotFound, match="branch id not found"):
        branch(api, project, "x", source_branch=f"{project.name}/branches/none", no_expiry=True)
    with pytest.raises(InvalidParameterValue):
        branch(api, project, "x", ttl=Duration(seconds=60), no_expiry=True)

    deleted = api.delete_branch(name=dev.name)
    assert deleted.wait() is None and deleted.done() is True
    assert api.get_operation(name=deleted.name()).done is True
    with pytest.raises(NotFound, match="branch id not found"):
        api.get_branch(name=dev.name)
    assert dev.name not in [other.name for other in api.list_branches(parent=project.name)]
    tombstones = list(api.list_branches(parent=project.name, show_deleted=True))
    [tombstone] = [other for other in tombstones if other.uid == dev.uid]
    assert tombstone.status.current_state == pg.BranchStatusState.DELETED
    assert seconds(tombstone.status.purge_time) > seconds(tombstone.status.delete_time)

    assert api.undelete_branch(name=dev.name).wait() is None
    assert api.get_branch(name=dev.name).uid == dev.uid
    # As notebooks do it: deleted, and at once made again.
    api.delete_branch(name=dev.name).wait()
    second = branch(api, project, "dev")
    assert second.uid != dev.uid
    api.delete_branch(name=dev.name, purge=True).wait()
    with pytest.raises(NotFound):
        api.delete_branch(name=f"{project.name}/branches/never")
    assert api.delete_branch(name=f"{project.name}/branches/never", allow_missing=True).wait() is None


def test_a_branch_is_changed_by_mask(api, project):
    kept = branch(api, project, "kept")
    name = kept.name

    def change(spec, *paths):
        return api.update_branch(name=name, branch=pg.Branch(spec=spec), update_mask=mask(*paths)).wait()

    assert change(pg.BranchSpec(is_protected=True, no_expiry=True), "spec.is_protected").status.is_protected
    with pytest.raises(BadRequest, match="cannot delete protected branch"):
        api.delete_branch(name=name)
    with pytest.raises(BadRequest, match="protected"):
        api.delete_project(name=project.name)
    assert not change(pg.BranchSpec(is_protected=False), "spec.is_protected").status.is_protected
    limited = change(pg.BranchSpec(ttl=Duration(seconds=7200)), "spec.expiration")
    assert abs(seconds(limited.status.expire_time) - time.time() - 7200) < 60
    assert change(pg.BranchSpec(no_expiry=True), "spec.expiration").status.expire_time is None
    assert change(pg.BranchSpec(is_protected=False, no_expiry=True), "spec").uid == kept.uid
    for wrong in ("spec.unknown", "spec.source_branch"):
        with pytest.raises(InvalidParameterValue):
            change(pg.BranchSpec(), wrong)
    with pytest.raises(InvalidParameterValue, match="^Unknown field path in update_mask: 's'"):
        api.update_branch(name=name, branch=pg.Branch(), update_mask=FieldMask("spec.is_protected"))


def test_what_goes_with_its_parent_says_so(api, project):
    production = f"{project.name}/branches/production"
    calls = [
        (api.delete_branch, production, f"Cannot delete root branch '{production}'"),
        (api.delete_endpoint, f"{production}/endpoints/primary", "Cannot delete read-write endpoint"),
    ]
    for delete, name, text in calls:
        with pytest.raises(BadRequest, match=text) as caught:
            delete(name=name)
        info = caught.value.get_error_details().error_info
        assert info.metadata == {"declarative_context": "MANAGED_BY_PARENT"}
        assert (info.reason, info.domain) == ("RESOURCE_CONFLICT", "databricks.com")


def test_an_endpoint_is_adopted_and_changed_by_mask(api, project):
    parent = f"{project.name}/branches/production"
    name = f"{parent}/endpoints/primary"
    before = api.get_endpoint(name=name)
    spec = pg.EndpointSpec(
        endpoint_type=pg.EndpointType.ENDPOINT_TYPE_READ_WRITE,
        autoscaling_limit_min_cu=1.0,
        autoscaling_limit_max_cu=2.0,
        suspend_timeout_duration=Duration(seconds=300),
    )

    def create(endpoint_id, spec, **options):
        endpoint = pg.Endpoint(spec=spec)
        return api.create_endpoint(parent=parent, endpoint=endpoint, endpoint_id=endpoint_id, **options)

    with pytest.raises(AlreadyExists, match="endpoint with such id already exists"):
        create("primary", spec)
    adopted = create("primary", spec, replace_existing=True).wait()
    assert (adopted.uid, adopted.create_time) == (before.uid, before.create_time)
    assert adopted.status.suspend_timeout_duration.seconds == 300
    with pytest.raises(BadRequest):
        create("second", spec)
    with pytest.raises(Missing):
        create("ro", pg.EndpointSpec(endpoint_type=pg.EndpointType.ENDPOINT_TYPE_READ_ONLY))

    def change(spec, *paths):
        return api.update_endpoint(name=name, endpoint=pg.Endpoint(spec=spec), update_mask=mask(*paths)).wait()

    spec.autoscaling_limit_min_cu, spec.autoscaling_limit_max_cu = 0.5, 3.0
    changed = change(spec, "spec.autoscaling_limit_max_cu").status
    assert (changed.autoscaling_limit_min_cu, changed.autoscaling_limit_max_cu) == (1.0, 3.0)
    spec = pg.EndpointSpec(endpoint_type=spec.endpoint_type, no_suspension=True)
    assert change(spec, "spec.suspension").status.suspend_timeout_duration is None
    for wrong in ({"autoscaling_limit_max_cu": 20.0}, {"autoscaling_limit_min_cu": 0.1}):
        wrong = pg.EndpointSpec(endpoint_type=spec.endpoint_type, **wrong)
        with pytest.raises(InvalidParameterValue):
            change(wrong, "spec.autoscaling_limit_min_cu", "spec.autoscaling_limit_max_cu")
    with pytest.raises(InvalidParameterValue):
        change(spec, "spec.endpoint_type")

    [compute] = api.list_compute_instances(parent=name)
    assert compute.name.startswith(f"{name}/compute-instances/")
    assert api.get_compute_instance(name=compute.name).compute_host == before.status.hosts.host


def test_lists_come_in_pages(api, project):
    wanted = [branch(api, project, f"page-{number}").name for number in range(5)]
    names = [other.name for other in api.list_branches(parent=project.name, page_size=2)]
    assert len(names) == len(set(names))
    assert names[-5:] == wanted


def test_a_project_is_changed_by_mask(api, project):
    def change(spec, *paths):
        body = pg.Project(name=project.name, spec=spec)
        return api.update_project(name=project.name, project=body, update_mask=mask(*paths)).wait()

    assert change(pg.ProjectSpec(display_name="New"), "spec.display_name").status.display_name == "New"
    tags = [pg.ProjectCustomTag(key="team", value="web")]
    assert change(pg.ProjectSpec(custom_tags=tags), "spec.custom_tags").status.custom_tags == tags
    # The SDK cannot send an empty list; to name the field is to clear it.
    assert not change(pg.ProjectSpec(custom_tags=[]), "spec.custom_tags").status.custom_tags
    heir = branch(api, project, "heir").name
    moved = change(pg.ProjectSpec(default_branch=heir), "spec.default_branch")
    assert moved.status.default_branch == heir and api.get_branch(name=heir).status.default is True
    with pytest.raises(BadRequest, match="default branch"):
        api.delete_branch(name=heir)
    back = pg.ProjectSpec(default_branch=f"{project.name}/branches/production", pg_version=17)
    change(back, "initial_branch_spec", "initial_endpoint_spec", "spec")
    with pytest.raises(InvalidParameterValue):
        change(back, "spec.pg_version")
    settings = pg.ProjectDefaultEndpointSettings(no_suspension=True)
    changed = change(
        pg.ProjectSpec(default_endpoint_settings=settings), "spec.project_default_settings.suspension"
    )
    changed = changed.status.default_endpoint_settings
    assert (changed.suspend_timeout_duration, changed.no_suspension) == (None, True)


def test_a_project_goes_and_comes_back(api):
    project_id = f"contract-{uuid.uuid4().hex[:8]}"
    name = f"projects/{project_id}"
    first = api.create_project(project=pg.Project(), project_id=project_id).wait()
    branch(api, first, "dev")
    assert api.delete_project(name=name).wait() is None
    with pytest.raises(NotFound):
        api.get_project(name=name)
    [tombstone] = [other for other in api.list_projects(show_deleted=True) if other.uid == first.uid]
    assert seconds(tombstone.purge_time) > seconds(tombstone.delete_time)
    assert api.undelete_project(name=name).wait() is None
    ids = [other.status.branch_id for other in api.list_branches(parent=name)]
    assert ids == ["production", "dev"]
    api.delete_project(name=name, purge=True).wait()
    assert first.uid not in [other.uid for other in api.list_projects(show_deleted=True)]
    with pytest.raises(NotFound):
        api.undelete_project(name=name)
    second = api.create_project(project=pg.Project(), project_id=project_id).wait()
    assert second.uid != first.uid
    api.delete_project(name=name, purge=True).wait()


GROUP = pg.ReplicationGroupPreview(
    replication_mode=pg.ReplicationModePreview.REPLICATION_MODE_PREVIEW_LIVE, workspaces=["a", "b"]
)

# Methods that this version answers with 501, each with a way to call it below `P` (the project), `B`
# (its branch) and `D` (a database).
LATER = {
    "create_catalog": lambda api, p, b, d: api.create_catalog(catalog=pg.Catalog(), catalog_id="c"),
    "get_catalog": lambda api, p, b, d: api.get_catalog(name="catalogs/c"),
    "delete_catalog": lambda api, p, b, d: api.delete_catalog(name="catalogs/c"),
    "create_synced_table": lambda api, p, b, d: api.create_synced_table(
        synced_table=pg.SyncedTable(), synced_table_id="a.b.c"
    ),
    "get_synced_table": lambda api, p, b, d: api.get_synced_table(name="synced_tables/a.b.c"),
    "delete_synced_table": lambda api, p, b, d: api.delete_synced_table(name="synced_tables/a.b.c"),
    "create_table": lambda api, p, b, d: api.create_table(table=pg.Table(name="a.b.c", database=d)),
    "get_table": lambda api, p, b, d: api.get_table(name="a.b.c"),
    "delete_table": lambda api, p, b, d: api.delete_table(name="a.b.c"),
    "create_data_api": lambda api, p, b, d: api.create_data_api(parent=d, data_api=pg.DataApi()),
    "get_data_api": lambda api, p, b, d: api.get_data_api(name=f"{d}/data-api"),
    "update_data_api": lambda api, p, b, d: api.update_data_api(
        name=f"{d}/data-api", data_api=pg.DataApi(), update_mask=mask("spec.db_schemas")
    ),
    "delete_data_api": lambda api, p, b, d: api.delete_data_api(name=f"{d}/data-api"),
    "create_cdf_config": lambda api, p, b, d: api.create_cdf_config(
        parent=d, cdf_config=pg.CdfConfig(catalog="c", schema="s", postgres_schema="public")
    ),
    "get_cdf_config": lambda api, p, b, d: api.get_cdf_config(name=f"{d}/cdf-configs/c"),
    "list_cdf_configs": lambda api, p, b, d: list(api.list_cdf_configs(parent=d)),
    "delete_cdf_config": lambda api, p, b, d: api.delete_cdf_config(name=f"{d}/cdf-configs/c"),
    "get_cdf_status": lambda api, p, b, d: api.get_cdf_status(name=f"{d}/cdf-configs/c/cdf-statuses/t"),
    "list_cdf_statuses": lambda api, p, b, d: list(api.list_cdf_statuses(parent=f"{d}/cdf-configs/c")),
    "create_snapshot": lambda api, p, b, d: api.create_snapshot(
        parent=p, snapshot=pg.Snapshot(spec=pg.SnapshotSpec(source_branch=b)), snapshot_id="s"
    ),
    "get_snapshot": lambda api, p, b, d: api.get_snapshot(name=f"{p}/snapshots/s"),
    "list_snapshots": lambda api, p, b, d: list(api.list_snapshots(parent=p)),
    "delete_snapshot": lambda api, p, b, d: api.delete_snapshot(name=f"{p}/snapshots/s"),
    "get_snapshot_schedule": lambda api, p, b, d: api.get_snapshot_schedule(name=f"{b}/snapshot-schedule"),
    "update_snapshot_schedule": lambda api, p, b, d: api.update_snapshot_schedule(
        name=f"{b}/snapshot-schedule", snapshot_schedule=pg.SnapshotSchedule(), update_mask=mask("schedule")
    ),
    "get_forward_etl_status": lambda api, p, b, d: api.get_forward_etl_status(parent=b),
    "get_forward_etl_metadata": lambda api, p, b, d: api.get_forward_etl_metadata(parent=b),
    "disable_forward_etl": lambda api, p, b, d: api.disable_forward_etl(parent=b),
    "delete_forward_etl_configuration": lambda api, p, b, d: api.delete_forward_etl_configuration(parent=b),
    "create_replication_group_preview": lambda api, p, b, d: api.create_replication_group_preview(
        parent=p, replication_group_preview=GROUP, replication_group_preview_id="g"
    ),
    "update_replication_group_preview": lambda api, p, b, d: api.update_replication_group_preview(
        name=f"{p}/preview/replication-groups/g",
        replication_group_preview=GROUP,
        update_mask=mask("replication_mode"),
    ),
    "delete_replication_group_preview": lambda api, p, b, d: api.delete_replication_group_preview(
        name=f"{p}/preview/replication-groups/g"
    ),
    "failover_replication_group_preview": lambda api, p, b, d: api.failover_replication_group_preview(
        name=f"{p}/preview/replication-groups/g", target_workspace="w"
    ),
    "switchover_replication_group_preview": lambda api, p, b, d: api.switchover_replication_group_preview(
        name=f"{p}/preview/replication-groups/g", target_workspace="w"
    ),
    "delete_recovery_branch_preview": lambda api, p, b, d: api.delete_recovery_branch_preview(
        name=f"{p}/preview/recovery-branches/r"
    ),
    "inspect_recovery_branch_preview": lambda api, p, b, d: api.inspect_recovery_branch_preview(
        name=f"{p}/preview/recovery-branches/r", branch_id="x"
    ),
    "list_replication_group_previews": lambda api, p, b, d: list(api.list_replication_group_previews(parent=p)),
    "get_replication_group_preview": lambda api, p, b, d: api.get_replication_group_preview(
        name=f"{p}/preview/replication-groups/g"
    ),
    "list_recovery_branch_previews": lambda api, p, b, d: list(api.list_recovery_branch_previews(parent=p)),
    "get_recovery_branch_preview": lambda api, p, b, d: api.get_recovery_branch_preview(
        name=f"{p}/preview/recovery-branches/r"
    ),
}

# Methods that the tests above drive.
DRIVEN = {
    "create_project",
    "get_project",
    "list_projects",
    "update_project",
    "delete_project",
    "undelete_project",
    "create_branch",
    "get_branch",
    "list_branches",
    "update_branch",
    "delete_branch",
    "undelete_branch",
    "create_endpoint",
    "get_endpoint",
    "list_endpoints",
    "update_endpoint",
    "delete_endpoint",
    "list_compute_instances",
    "get_compute_instance",
    "get_operation",
}


# Methods of other resources, each with the file that drives it.
ELSEWHERE = {
    **{
        f"{verb}_{noun}": "test_roles.py"
        for noun in ("role", "database")
        for verb in ("create", "get", "update", "delete")
    },
    "list_roles": "test_roles.py",
    "list_databases": "test_roles.py",
    "generate_database_credential": "test_login.py",
}


def test_every_method_has_its_place():
    methods = {
        name
        for name, _ in inspect.getmembers(pg.PostgresAPI, inspect.isfunction)
        if not name.startswith("_")
    }
    assert methods == DRIVEN | set(LATER) | set(ELSEWHERE)
    places = {**dict.fromkeys(DRIVEN, os.path.basename(__file__)), **ELSEWHERE}
    idle = {method for method, place in places.items() if method not in used_in(place)}
    assert not idle, "driven by nobody"


def used_in(place):
    """Names of the methods of something's own that the code of a test file calls, or hands on to be called."""
    with open(os.path.join(os.path.dirname(__file__), place), encoding="utf-8") as source:
        tree = ast.parse(source.read())
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("method", sorted(LATER))
def test_what_comes_later_says_so(api, project, method):
    production = f"{project.name}/branches/production"
    with pytest.raises(Missing, match="not supported by this version"):
        LATER[method](api, project.name, production, f"{production}/databases/databricks_postgres")
