"""What the four programs share: a project with the sample shop in it, and connections to its branches.

Everything here is the vendor's client and an ordinary driver. Two variables say where and as whom:
DATABRICKS_HOST and DATABRICKS_TOKEN.
"""

import os
import re
import zlib

import psycopg2
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import NotFound
from databricks.sdk.service.postgres import (
    Branch,
    BranchSpec,
    Duration,
    Project,
    ProjectDefaultEndpointSettings,
    ProjectSpec,
)

SAMPLE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "crates", "ana", "data", "ecommerce.sql")

HOUR = 3600
DAY = 24 * HOUR


class Shop:
    """A project of the caller's own, filled with the sample; gone for good at the end of the block.

    What an earlier run that was broken off has left under the same name is removed first.
    """

    def __init__(self, title):
        self.w = WorkspaceClient()
        self.user = self.w.current_user.me().user_name
        # A name that is always the same for one person, and that no other person gets.
        person = re.sub("[^a-z0-9]+", "-", self.user.split("@")[0].lower()).strip("-")[:24]
        self.id = f"{title}-{person}-{zlib.crc32(self.user.encode()):08x}"
        self.name = f"projects/{self.id}"

    def __enter__(self):
        self.remove()
        spec = ProjectSpec(
            display_name=f"Example: {self.id}",
            pg_version=17,
            default_endpoint_settings=ProjectDefaultEndpointSettings(
                autoscaling_limit_min_cu=0.5,
                autoscaling_limit_max_cu=4.0,
                suspend_timeout_duration=Duration(seconds=60),
            ),
        )
        made = self.w.postgres.create_project(project=Project(spec=spec), project_id=self.id).wait()
        try:
            print(f"{made.name} on PostgreSQL {made.status.pg_version}, for {self.user}")
            with open(SAMPLE, encoding="utf-8") as sample, self.connect("production") as production:
                production.run(sample.read())
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_):
        self.remove()
        print(f"{self.name} is gone")

    def remove(self):
        try:
            self.w.postgres.delete_project(name=self.name, purge=True).wait()
        except NotFound:
            pass

    def branch(self, branch_id, seconds, source="production"):
        """A branch that vanishes after so many seconds."""
        spec = BranchSpec(source_branch=f"{self.name}/branches/{source}", ttl=Duration(seconds=seconds))
        made = self.w.postgres.create_branch(parent=self.name, branch=Branch(spec=spec), branch_id=branch_id)
        return made.wait()

    def delete_branch(self, branch_id):
        self.w.postgres.delete_branch(name=f"{self.name}/branches/{branch_id}").wait()

    def branches(self):
        """Identifiers of the branches that there are."""
        return [branch.name.split("/")[-1] for branch in self.w.postgres.list_branches(parent=self.name)]

    def connect(self, branch_id):
        """A connection to a branch, with a token in place of a password, encrypted."""
        endpoint = next(iter(self.w.postgres.list_endpoints(parent=f"{self.name}/branches/{branch_id}")))
        credential = self.w.postgres.generate_database_credential(endpoint=endpoint.name)
        return Connection(
            host=endpoint.status.hosts.host,
            port=self.port(endpoint.name),
            dbname="databricks_postgres",
            user=self.user,
            password=credential.token,
            # With the authority's certificate at hand (`ana ca`) the server has to prove itself.
            sslmode="verify-full" if os.environ.get("PGSSLROOTCERT") else "require",
            application_name="example",
        )

    def port(self, endpoint):
        """5432, unless the server says that it had to take another one."""
        told = self.w.api_client.do("GET", f"/api/2.0/postgres/{endpoint}").get("anabranch", {})
        return told.get("port", 5432)


class Connection:
    """A connection that commits each call by itself."""

    def __init__(self, **parameters):
        self.inner = psycopg2.connect(**parameters)
        self.inner.autocommit = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.inner.close()

    def run(self, sql, *values):
        """Statements; gives how many rows the last one touched."""
        with self.inner.cursor() as cursor:
            cursor.execute(sql, values or None)
            return cursor.rowcount

    def rows(self, sql, *values):
        with self.inner.cursor() as cursor:
            cursor.execute(sql, values or None)
            return cursor.fetchall()

    def one(self, sql, *values):
        """The only value of the only row."""
        [(value,)] = self.rows(sql, *values)
        return value

    def schema(self):
        """The shop's columns: `table.column` to what each is."""
        columns = self.rows(
            "SELECT table_name || '.' || column_name, "
            "       data_type || coalesce('(' || character_maximum_length || ')', '') "
            "       || CASE is_nullable WHEN 'NO' THEN ' NOT NULL' ELSE '' END "
            "       || coalesce(' DEFAULT ' || column_default, '') "
            "FROM information_schema.columns WHERE table_schema = 'ecommerce'"
        )
        return dict(columns)


def differences(before, after):
    """What became of a schema, a line for each column."""
    lines = []
    for column in sorted(before.keys() | after.keys()):
        if column not in before:
            lines.append(f"+ {column} {after[column]}")
        elif column not in after:
            lines.append(f"- {column} {before[column]}")
        elif before[column] != after[column]:
            lines.append(f"~ {column} {before[column]} -> {after[column]}")
    return lines


def expect(what, found, wanted):
    """Ends the program where something is not as it should be."""
    if found != wanted:
        raise SystemExit(f"{what}: {found!r}, not {wanted!r}")
    print(f"  {what}: {found}")
