"""The image, really built by buildah and run as it is meant to be: no root, nothing to write on but /data and /tmp.

Its base is a Debian with Python, made here: what the official image of Python adds to that is not tried. Nor is a
container engine: the file system, the user, the capabilities and the process namespace are what one would give.
"""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.programs import ROOT, output, program
from tests.servers import free_port

pytestmark = pytest.mark.deploy

# Outside the sources: whole file systems.
STORE = Path("/var/tmp/tollbridge-images")
BASE = "localhost/debian-python"
USER = 65532
PIP = ("index-url", "extra-index-url", "cert")


def buildah(*words: str | Path, text: str | None = None) -> str:
    places = ("--root", STORE / "store", "--runroot", STORE / "run")
    return output(program("buildah"), *places, *words, text=text).strip()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image's id, built from the Dockerfile."""
    assert os.geteuid() == 0, "building an image needs root"
    STORE.mkdir(parents=True, exist_ok=True)
    if BASE not in buildah("images", "--format", "{{.Name}}"):
        make_base(tmp_path_factory.mktemp("base") / "root")
    folder = tmp_path_factory.mktemp("pip")
    config, mounts = pip_of_this_machine(folder)
    words = ("build", "--quiet", "--pull-never", "--isolation", "chroot", "--format", "docker", "--timestamp", "0")
    return buildah(*words, "--build-arg", f"PYTHON={BASE}", "--volume", f"{config}:/etc/pip.conf:ro", *mounts, ROOT)


def make_base(root: Path) -> None:
    packages = "python3,python3-venv,python3-pip,ca-certificates"
    output(program("debootstrap"), "--variant=minbase", f"--include={packages}", "bookworm", root)
    made = buildah("from", "scratch")
    buildah("add", "--quiet", made, root, "/")
    buildah("commit", "--quiet", made, BASE)
    buildah("rm", made)


def pip_of_this_machine(folder: Path) -> tuple[Path, list[str]]:
    """Where this machine takes packages from, for the one step of the build that takes some."""
    known = {}
    for line in output("python3", "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        known[name.rpartition(".")[2]] = value.strip("'")
    config = folder / "pip.conf"
    config.write_text("[global]\n" + "".join(f"{name} = {known[name]}\n" for name in PIP if name in known))
    certificates = known.get("cert")
    return config, ["--volume", f"{certificates}:{certificates}:ro"] if certificates else []


@pytest.fixture(scope="module")
def config(image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(buildah("inspect", "--type", "image", image))["Docker"]["config"]
    return found


@pytest.fixture(scope="module")
def root(image: str) -> Iterator[Path]:
    made = buildah("from", "--pull-never", image)
    yield Path(buildah("mount", made))
    buildah("umount", made)
    buildah("rm", made)


class Container:
    """`command` in the image at `root`, in namespaces of its own, `data` being all that lasts of what it writes."""

    def __init__(self, root: Path, config: dict[str, Any], data: Path, **env: str) -> None:
        own = dict(pair.split("=", 1) for pair in config["Env"])
        self.env = {**own, **env}
        self._data = data
        self._root = root
        self._folder: str = config["WorkingDir"]
        self.process: subprocess.Popen[str] | None = None

    def command(self, *words: str) -> list[str]:
        """Mounts: the image read-only, /data, an empty /tmp, /proc and what a container has of /dev."""
        root = str(self._root)
        script = (
            'set -e; root=$1; data=$2; shift 2; mount --make-rprivate /; mount --bind "$root" "$root"; '
            'mount --bind "$data" "$root/data"; mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"; '
            'mount -t proc proc "$root/proc"; mount --rbind /dev "$root/dev"; '
            'mount -o remount,bind,ro "$root" "$root"; exec "$@"'
        )
        inside = (
            *("chroot", root, "/usr/bin/env", "-i", "-C", self._folder),
            *(f"{name}={value}" for name, value in self.env.items()),
            *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"),
            *("--bounding-set=-all", "--inh-caps=-all", *words),
        )
        outside = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc")
        return [*outside, "sh", "-c", script, "sh", root, str(self._data), *inside]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words), capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    os.chown(folder, USER, USER)
    return folder


@contextlib.contextmanager
def serving(container: Container, *words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        container.command(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def asked(port: int, method: str, path: str, key: str = "", body: Any = None) -> tuple[int, bytes]:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.read()


def first_of(namespace: int) -> int:
    """The process that is number 1 in the namespace whose parent `namespace` is."""
    [child] = Path(f"/proc/{namespace}/task/{namespace}/children").read_text().split()
    return int(child)


def test_it_serves_on_a_read_only_file_system_without_any_right(root: Path, config: dict[str, Any], data: Path) -> None:
    port = free_port()
    container = Container(root, config, data, TOLLBRIDGE_PORT=str(port))
    check = config["Healthcheck"]["Test"]
    assert check[0] == "CMD"
    with serving(container, *config["Entrypoint"], *config["Cmd"]) as process:
        deadline = time.monotonic() + 90
        while container.run(*check[1:]).returncode:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "never healthy"
        head = first_of(process.pid)
        status = dict(re.findall(r"^(\w+):\t(.*)$", Path(f"/proc/{head}/status").read_text(), re.MULTILINE))
        assert status["Uid"].split() == [str(USER)] * 4
        assert {status[name] for name in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}
        assert process.stdout is not None
        key = next(found[0] for line in process.stdout if (found := re.search(r"tb_live_\w+", line)))
        model = json.loads(asked(port, "GET", "/v1/models", key)[1])["data"][0]["id"]
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        status_code, answer = asked(port, "POST", "/v1/chat/completions", key, body)
        assert status_code == 200, answer
        # As `docker stop` does it: to the first process, which nobody else would end.
        os.kill(head, signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
        assert process.returncode == 0, rest
    assert container.run(*check[1:]).returncode != 0
    assert {path.name for path in data.iterdir()} >= {"tollbridge.db", "secret"}
    assert {path.stat().st_uid for path in data.iterdir()} == {USER}


def test_nothing_but_data_and_tmp_can_be_written(root: Path, config: dict[str, Any], data: Path) -> None:
    container = Container(root, config, data)
    probe = (
        "import os\n"
        "for folder, _, _ in os.walk('/'):\n"
        "    if folder.startswith(('/proc', '/dev', '/sys')): continue\n"
        "    try: open(folder + '/probe', 'w').close(); print(folder)\n"
        "    except OSError: pass\n"
    )
    assert set(container.run("python", "-c", probe).stdout.split()) == {"/tmp", "/data"}


def test_it_holds_what_serving_needs_and_no_more(root: Path, config: dict[str, Any], data: Path) -> None:
    app = root / "app"
    assert {path.name for path in app.iterdir()} == {
        *(".venv", "src", "requirements", "pyproject.toml", "LICENSE", "tools")
    }
    [packages] = (app / ".venv" / "lib").glob("python3*/site-packages")
    assert not (packages / "pip").exists()
    assert {"uvloop", "asyncpg", "redis"} <= {path.name for path in packages.iterdir()}
    sources = [path for path in app.rglob("*.py") if "lib2to3" not in str(path)]
    compiled = {path.name.split(".")[0] for path in (app / "src").rglob("*.pyc")}
    assert {path.stem for path in (app / "src").rglob("*.py")} <= compiled
    assert len(sources) > 300
    size = sum(path.lstat().st_size for path in app.rglob("*") if not path.is_symlink())
    assert size < 150e6
    container = Container(root, config, data)
    assert "tollbridge" in container.run("tollbridge", "--version").stdout


def test_it_says_what_it_is_and_how_it_is_stopped(config: dict[str, Any]) -> None:
    assert config["User"] == f"{USER}:{USER}"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Volumes"] == {"/data": {}}
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_the_dockerfile_has_no_fault_that_hadolint_knows() -> None:
    # DL3059 would put unrelated steps into one layer.
    assert output(program("hadolint"), "--ignore", "DL3059", ROOT / "Dockerfile") == ""
