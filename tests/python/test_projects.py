"""Projects, branches and endpoints through the vendor's client."""

import re

import pytest
from databricks.sdk.errors import (
    AlreadyExists,
    BadRequest,
    InvalidParameterValue,
    NotFound,
)
from databricks.sdk.service.postgres import (
    Branch,
    BranchSpec,
    Duration,
    EndpointType,
    Project,
    ProjectDefaultEndpointSettings,
    ProjectSpec,
)

from server import OWNER


def forever(**spec):
    return Branch(spec=BranchSpec(no_expiry=True, **spec))


def test_a_project_comes_with_all_it_needs(w, fresh):
    spec = ProjectSpec(
        display_name="Branching",
        pg_version=17,
        default_endpoint_settings=ProjectDefaultEndpointSettings(
            autoscaling_limit_min_cu=0.5,
            autoscaling_limit_max_cu=4.0,
            suspend_timeout_duration=Duration(seconds=60),
        ),
    )
    operation = w.postgres.create_project(project=Project(spec=spec), project_id=fresh)
    assert re.fullmatch(rf"projects/{fresh}/operations/[0-9a-f-]{{36}}", operation.name())
    project = operation.wait()
    assert project.name == f"projects/{fresh}"
    assert project.uid
    assert project.spec is None
    assert project.status.default_branch == f"projects/{fresh}/branches/production"
    assert project.status.display_name == "Branching"
    assert project.status.pg_version == 17
    assert project.status.owner == OWNER
    assert project.status.default_endpoint_settings.suspend_timeout_duration.seconds == 60

    branches = list(w.postgres.list_branches(parent=project.name))
    assert [branch.name for branch in branches] == [f"{project.name}/branches/production"]
    assert branches[0].status.default is True
    assert branches[0].status.source_branch is None
    endpoints = list(w.postgres.list_endpoints(parent=branches[0].name))
    assert [endpoint.endpoint_id for endpoint in endpoints] == ["primary"]
    assert endpoints[0].status.endpoint_type == EndpointType.ENDPOINT_TYPE_READ_WRITE
    assert endpoints[0].status.hosts.host
    assert endpoints[0].status.pending_state is None

    w.postgres.delete_project(name=project.name).wait()
    with pytest.raises(NotFound, match="^project id not found"):
        w.postgres.get_project(name=project.name)


def test_wrong_projects(w, shop):
    with pytest.raises(AlreadyExists, match="project with such id already exists in the workspace"):
        w.postgres.create_project(project=Project(), project_id="shop")
    for wrong in ["Bad_ID", ""]:
        with pytest.raises(InvalidParameterValue):
            w.postgres.create_project(project=Project(), project_id=wrong)
    with pytest.raises(NotFound, match="^project id not found"):
        w.postgres.get_project(name="projects/none")


def test_branches_come_and_go(w, shop, fresh):
    spec = BranchSpec(source_branch=f"{shop.name}/branches/production", ttl=Duration(seconds=3600))
    branch = w.postgres.create_branch(parent=shop.name, branch=Branch(spec=spec), branch_id=fresh).wait()
    assert branch.uid.startswith("br-")
    assert branch.status.source_branch == spec.source_branch
    assert branch.status.expire_time.seconds - branch.create_time.seconds == 3600
    assert branch.status.default is False
    assert branch.status.is_protected is False
    assert list(w.postgres.list_endpoints(parent=branch.name))
    assert fresh in [branch.branch_id for branch in w.postgres.list_branches(parent=shop.name)]
    with pytest.raises(AlreadyExists, match="branch with such id already exists"):
        w.postgres.create_branch(parent=shop.name, branch=forever(), branch_id=fresh)

    operation = w.postgres.delete_branch(name=branch.name)
    assert operation.wait() is None
    assert operation.done()
    with pytest.raises(NotFound, match="^branch id not found"):
        w.postgres.get_branch(name=branch.name)
    again = w.postgres.create_branch(parent=shop.name, branch=forever(), branch_id=fresh).wait()
    assert again.uid != branch.uid
    w.postgres.delete_branch(name=again.name, purge=True).wait()


def test_wrong_branches(w, shop, fresh):
    with pytest.raises(NotFound, match="^branch id not found"):
        source = f"{shop.name}/branches/none"
        w.postgres.create_branch(parent=shop.name, branch=forever(source_branch=source), branch_id=fresh)
    with pytest.raises(InvalidParameterValue):
        both = BranchSpec(ttl=Duration(seconds=60), no_expiry=True)
        w.postgres.create_branch(parent=shop.name, branch=Branch(spec=both), branch_id=fresh)
    with pytest.raises(NotFound, match="^branch id not found"):
        w.postgres.delete_branch(name=f"{shop.name}/branches/none")
    with pytest.raises(BadRequest) as refused:
        w.postgres.delete_branch(name=f"{shop.name}/branches/production")
    info = refused.value.get_error_details().error_info
    assert info.metadata["declarative_context"] == "MANAGED_BY_PARENT"


def test_pages(w, shop):
    names = [f"page-{number}" for number in range(5)]
    for name in names:
        w.postgres.create_branch(parent=shop.name, branch=forever(), branch_id=name).wait()
    seen = [branch.branch_id for branch in w.postgres.list_branches(parent=shop.name, page_size=2)]
    assert len(seen) == len(set(seen))
    assert set(names) <= set(seen)
    for name in names:
        w.postgres.delete_branch(name=f"{shop.name}/branches/{name}", purge=True).wait()
