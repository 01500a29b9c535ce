"""A real daemon in a home of its own, on free ports."""

import glob
import json
import os
import re
import shutil
import subprocess
import tempfile
import time

from databricks.sdk import WorkspaceClient

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))

OWNER = "ana@example.org"

# Seconds after which a daemon that neither answers nor ends is given up.
PATIENCE = 120


def until(look):
    """What `look` gives as soon as it gives something."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.02)
    raise AssertionError("it never came")


class Secrets:
    """What programs were told and nobody else may learn."""

    FORMS = {
        "personal token": r"ana_pat_[0-9a-zA-Z]+",
        "client secret": r"ana_cs_[0-9a-zA-Z]+",
        "signed token": r"eyJ[\w-]+\.[\w-]+\.[\w-]+",
        "password": r'"password":\s*"([0-9a-f]{64})"',
    }

    def __init__(self):
        # To each its kind.
        self.known = {}

    def notice(self, text):
        """Keeps what there is in an answer or an output."""
        for kind, form in self.FORMS.items():
            self.known.update(dict.fromkeys(re.findall(form, text), kind))

    def found_in(self, text):
        """Kinds of the secrets that a text gives away."""
        return {kind for secret, kind in self.known.items() if self._core(secret) in text}

    @staticmethod
    def _core(secret):
        """The part that nobody can guess: what follows the kind, or the signature."""
        return secret.rsplit("." if "." in secret else "_", 1)[-1]


class Server:
    """`ana serve` with an empty home. Call `stop` at the end; it leaves nothing behind."""

    def __init__(self, *options):
        self.options = options
        self.secrets = Secrets()
        self.dir = tempfile.mkdtemp(prefix="ana-python-")
        # The daemon may run as another user than we do, and makes its home itself.
        os.chmod(self.dir, 0o755)
        # The build directory may lie where that user cannot go.
        self.program = shutil.copy(_program(), os.path.join(self.dir, "ana"))
        self.home = os.path.join(self.dir, "home")
        self.log = open(os.path.join(self.dir, "log"), "w+b")
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self, **environment):
        self.process = subprocess.Popen(
            [self.program, "serve", "--owner", OWNER, *self.options],
            env={**self._environment(), **environment},
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
        )
        self.host = "http://" + self._wait_until_up()

    def restart(self, **environment):
        """Kills the daemon and starts it again, with other variables and on other ports."""
        self.process.kill()
        self.process.wait()
        self._start(**environment)

    def ana(self, *arguments, **environment):
        """Output of a command that succeeds."""
        done = self.try_ana(*arguments, **environment)
        assert done.returncode == 0, f"ana {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def try_ana(self, *arguments, **environment):
        """A command that may fail."""
        done = subprocess.run(
            [self.program, *arguments],
            env={**self._environment(), **environment},
            cwd=self.dir,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        self.secrets.notice(done.stdout)
        return done

    def psql(self, branch, statements):
        """What PostgreSQL's superuser is told on a branch (`PROJECT/BRANCH`)."""
        project, branch = branch.split("/")
        return self.ana("psql", branch, "--project", project, "--superuser", "--", "-c", statements)

    def place(self, branch):
        """How to connect to a branch (`PROJECT/BRANCH`): what `ana url --json` says, with a token."""
        project, branch = branch.split("/")
        return json.loads(self.ana("url", branch, "--project", project, "--json"))

    def token(self, *arguments):
        """A new personal token, of the owner unless the arguments say otherwise."""
        return json.loads(self.ana("token", "create", "--json", *arguments))["token"]

    def authority(self):
        """File with the certificate by which clients know the servers."""
        return self.ana("ca", "--path").strip()

    def user(self, name):
        """A new user; gives a token of theirs."""
        self.ana("principal", "create", name)
        return self.token("--principal", name)

    def service(self, name):
        """A new service principal; gives its client id and secret."""
        self.ana("principal", "create", name, "--service")
        made = json.loads(self.ana("principal", "secret", name, "--json"))
        return made["client_id"], made["client_secret"]

    def client(self, token):
        """The vendor's client of somebody else than the owner."""
        return WorkspaceClient(host=self.host, token=token)

    def service_client(self, client_id, client_secret):
        """The vendor's client of a service principal."""
        # Named because the environment holds the owner's token as well.
        config = {"client_id": client_id, "client_secret": client_secret, "auth_type": "oauth-m2m"}
        return WorkspaceClient(host=self.host, **config)

    def stop(self):
        """Ends the daemon with its computes and removes the home."""
        process = getattr(self, "process", None)
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.log.close()
        shutil.rmtree(self.dir)
        assert process is None or process.returncode == 0, f"the daemon ended with {process.returncode}"

    def read_log(self):
        """What the daemon has said so far."""
        with open(os.path.join(self.dir, "log"), encoding="utf-8") as log:
            return log.read()

    def _wait_until_up(self):
        begin = time.monotonic()
        while time.monotonic() - begin < PATIENCE:
            if self.process.poll() is not None:
                raise RuntimeError(f"the daemon ended while starting:\n{self.read_log()}")
            status = self.try_ana("status", "--json")
            if status.returncode == 0:
                return json.loads(status.stdout)["http"]
            time.sleep(0.05)
        raise RuntimeError(f"the daemon does not answer:\n{self.read_log()}")

    def _environment(self):
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": self.dir,
            "ANABRANCH_HOME": self.home,
            "ANABRANCH_HTTP_PORT": "0",
            "ANABRANCH_PG_PORT": "0",
        }
        bin_dir = _postgres()
        if bin_dir:
            environment["ANABRANCH_PG_BIN"] = bin_dir
        return environment


def _program():
    given = os.environ.get("ANA_BIN")
    if given:
        return given
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    return os.path.join(target, "debug", "ana")


def _postgres():
    """The server that the Rust tests have fetched, where it is; else the daemon finds its own."""
    places = [os.path.join(ROOT, "target", "test-home"), os.path.join(tempfile.gettempdir(), "anabranch-test-home-0")]
    for place in reversed(places) if os.geteuid() == 0 else places:
        found = sorted(glob.glob(os.path.join(place, "postgres", "*", "bin")))
        if found:
            return found[-1]
    return None


def of_libpq(place, **changes):
    """A place as libpq's drivers take it."""
    known = {
        "host": place["host"],
        "port": place["port"],
        "user": place["role"],
        "password": place["password"],
        "dbname": place["database"],
        "sslmode": "verify-full",
        "sslrootcert": place["ca_file"],
    }
    return {**known, **changes}
