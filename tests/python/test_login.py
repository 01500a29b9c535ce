"""Ways to prove who one is, and rights on projects."""

import datetime

import pytest
from databricks.sdk.errors import InvalidParameterValue, NotFound, NotImplemented, PermissionDenied, Unauthenticated
from databricks.sdk.service.iam import AccessControlRequest, PermissionLevel
from databricks.sdk.service.postgres import Branch, BranchSpec, Duration, Project

from server import OWNER

PRIMARY = "projects/shop/branches/production/endpoints/primary"


def test_token(server, w):
    assert w.current_user.me().user_name == OWNER
    assert isinstance(w.get_workspace_id(), int)
    assert w.config.host == server.host


def test_client_credentials(server):
    client_id, secret = server.service("ci-login")
    w = server.service_client(client_id, secret)
    me = w.current_user.me()
    assert me.user_name == client_id
    assert me.display_name == "ci-login"
    assert list(w.postgres.list_projects()) == []


def test_wrong_credentials(server):
    client_id, secret = server.service("ci-wrong")
    with pytest.raises(Exception, match="invalid_client"):
        server.service_client(client_id, secret[:-1] + "x").current_user.me()
    for wrong in ["x", "ana_pat_" + 72 * "0"]:
        with pytest.raises(Unauthenticated):
            server.client(wrong).current_user.me()


def test_revoked_token(server):
    token = server.user("rita@example.org")
    w = server.client(token)
    assert w.current_user.me().user_name == "rita@example.org"
    server.ana("principal", "delete", "rita@example.org")
    with pytest.raises(Unauthenticated):
        w.current_user.me()


def test_no_credentials(server):
    import requests

    answer = requests.get(server.host + "/api/2.0/postgres/projects", timeout=10)
    assert answer.status_code == 401
    assert answer.json()["error_code"] == "UNAUTHENTICATED"


def test_two_principals_do_not_see_each_other(server, shop):
    first, second = (server.client(server.user(f"{name}@example.org")) for name in ("fay", "sam"))
    for w, name in ((first, "fays"), (second, "sams")):
        w.postgres.create_project(project=Project(), project_id=name).wait()
        assert [project.name for project in w.postgres.list_projects()] == [f"projects/{name}"]
        assert w.postgres.get_project(name=f"projects/{name}").status.owner == w.current_user.me().user_name
    with pytest.raises(NotFound, match="^project id not found"):
        first.postgres.get_project(name="projects/sams")
    with pytest.raises(NotFound, match="^project id not found"):
        first.postgres.delete_project(name="projects/sams")


def test_permissions(server, w, shop):
    server.ana("principal", "create", "data", "--group")
    client_id, secret = server.service("ci-permissions")
    service = server.service_client(client_id, secret)
    kind = "database-projects"

    def entry(level, **who):
        return AccessControlRequest(permission_level=level, **who)

    shown = w.permissions.update(
        kind,
        "shop",
        access_control_list=[
            entry(PermissionLevel.CAN_USE, service_principal_name=client_id),
            entry(PermissionLevel.CAN_USE, group_name="data"),
        ],
    )
    assert shown.object_id == "/database-projects/shop"
    assert len(shown.access_control_list) == 3
    service.postgres.get_project(name="projects/shop")
    with pytest.raises(PermissionDenied):
        service.postgres.create_branch(
            parent="projects/shop", branch_id="no", branch=Branch(spec=BranchSpec(no_expiry=True))
        )
    replaced = w.permissions.set(
        kind, "shop", access_control_list=[entry(PermissionLevel.CAN_MANAGE, service_principal_name=client_id)]
    )
    by_name = {entry.service_principal_name: entry.all_permissions for entry in replaced.access_control_list}
    assert [right.permission_level for right in by_name[client_id]] == [PermissionLevel.CAN_MANAGE]
    assert len(w.permissions.get(kind, "shop").access_control_list) == 2
    levels = w.permissions.get_permission_levels(kind, "shop").permission_levels
    assert [level.permission_level for level in levels] == [PermissionLevel.CAN_USE, PermissionLevel.CAN_MANAGE]
    w.permissions.set(kind, "shop", access_control_list=[])
    with pytest.raises(NotFound):
        service.postgres.get_project(name="projects/shop")


def test_database_credentials(w, shop):
    def seconds(credential):
        end = credential.expire_time.ToDatetime().replace(tzinfo=datetime.timezone.utc)
        return (end - datetime.datetime.now(datetime.timezone.utc)).total_seconds()

    usual = w.postgres.generate_database_credential(endpoint=PRIMARY)
    assert usual.token
    assert 3500 < seconds(usual) <= 3601
    short = w.postgres.generate_database_credential(endpoint=PRIMARY, ttl=Duration(seconds=600))
    assert 500 < seconds(short) <= 601
    with pytest.raises(InvalidParameterValue):
        w.postgres.generate_database_credential(endpoint=PRIMARY, ttl=Duration(seconds=10))
    with pytest.raises(InvalidParameterValue):
        w.postgres.generate_database_credential(
            endpoint=PRIMARY, ttl=Duration(seconds=600), expire_time=usual.expire_time
        )
    with pytest.raises(NotFound, match="^endpoint id not found"):
        w.postgres.generate_database_credential(endpoint=PRIMARY + "x")


def test_narrow_credentials_are_refused_not_ignored(w, shop):
    from databricks.sdk.service.postgres import RequestedClaims, RequestedClaimsPermissionSet

    claims = [RequestedClaims(permission_set=RequestedClaimsPermissionSet.READ_ONLY)]
    with pytest.raises(NotImplemented):
        w.postgres.generate_database_credential(endpoint=PRIMARY, claims=claims)


def test_secrets_are_in_no_log(server):
    token = server.user("lena@example.org")
    w = server.client(token)
    w.current_user.me()
    with pytest.raises(Unauthenticated):
        server.client(token[:-1] + ("0" if token[-1] != "0" else "1")).current_user.me()
    log = server.read_log()
    assert "a token was refused" in log
    assert token[8:60] not in log


def test_command_line_over_http(server):
    token = server.user("rem@example.org")
    remote = {"ANABRANCH_HOST": server.host, "ANABRANCH_TOKEN": token}
    assert "rem@example.org" in server.ana("auth", "whoami", **remote)
    server.ana("project", "create", "rems", **remote)
    assert "rems" in server.ana("project", "list", **remote)
    listed = server.ana("token", "list", **remote)
    assert "rem@example.org" in listed and token not in listed
    refused = server.try_ana("principal", "list", **remote)
    assert refused.returncode == 2 and "owner of this server" in refused.stderr
    wrong = server.try_ana("project", "list", **{**remote, "ANABRANCH_TOKEN": "x"})
    assert wrong.returncode == 2 and "ANABRANCH_TOKEN" in wrong.stderr
