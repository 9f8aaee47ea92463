"""Make this checkout usable in the environment that runs this: its sources on the path, its commands in `bin`.

The effect of an editable installation without a build backend: nothing to download, nothing to build.
"""

import sys
import sysconfig
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SCRIPT = """\
#!{python}
import sys

from {module} import {function}

sys.exit({function}())
"""


def link() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (Path(sysconfig.get_path("purelib")) / f"{project['name']}.pth").write_text(f"{ROOT / 'src'}\n")
    for name, target in project["scripts"].items():
        module, _, function = target.partition(":")
        script = Path(sysconfig.get_path("scripts")) / name
        script.write_text(SCRIPT.format(python=sys.executable, module=module, function=function))
        script.chmod(0o755)


if __name__ == "__main__":
    link()
