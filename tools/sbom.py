"""The bill of materials of what serving needs, as CycloneDX 1.6, from requirements/run.lock.

    python -m tools.sbom > dist/tollbridge.cdx.json

Licences are read from what is installed. A component's hashes are those of all files that the lock admits for it.
"""

import json
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

from tools.locks import ROOT, Locked, read

from tollbridge import __version__


def bill() -> dict[str, Any]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    head = {"type": "application", "bom-ref": "tollbridge", "name": project["name"], "version": __version__}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {**head, "licenses": [{"expression": project["license"]}]}},
        "components": [_component(locked) for locked in read("run")],
    }


def _component(locked: Locked) -> dict[str, Any]:
    reference = f"pkg:pypi/{locked.name}@{locked.version}"
    return {
        "type": "library",
        "bom-ref": reference,
        "name": locked.name,
        "version": locked.version,
        "purl": reference,
        "licenses": _licenses(locked.name),
        "hashes": [{"alg": "SHA-256", "content": digest} for digest in locked.hashes],
    }


def _licenses(name: str) -> list[dict[str, Any]]:
    try:
        fields = metadata(name)
    except PackageNotFoundError:
        return []
    if "License-Expression" in fields:
        return [{"expression": fields["License-Expression"]}]
    classifiers = [value for value in fields.get_all("Classifier") or [] if value.startswith("License ::")]
    names = [value.rsplit(" :: ", 1)[-1] for value in classifiers] or fields.get_all("License") or []
    return [{"license": {"name": name}} for name in names]


if __name__ == "__main__":
    print(json.dumps(bill(), indent=2))
