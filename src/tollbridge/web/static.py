"""Files that do not change while the program runs: read once, compressed once, cached by browsers for ever.

Their address contains a digest of all of them, so that a new version is fetched again.
"""

import gzip
import hashlib
import mimetypes
from pathlib import Path

import msgspec
from starlette.responses import Response

from tollbridge.errors import NotFound

FOLDER = Path(__file__).parent / "static"
SERVED = {".css", ".js", ".svg", ".png", ".ico", ".woff2", ".webmanifest"}
FOR_EVER = "public, max-age=31536000, immutable"
_PACKED = {".css", ".js", ".svg", ".webmanifest"}


class Asset(msgspec.Struct, frozen=True):
    """A file, and its gzip if that is shorter."""

    kind: str
    data: bytes
    packed: bytes | None


class Static:
    """The files below `static/`, by their path there."""

    def __init__(self) -> None:
        files = sorted(file for file in FOLDER.rglob("*") if file.suffix in SERVED)
        self._assets = {file.relative_to(FOLDER).as_posix(): _read(file) for file in files}
        digest = hashlib.sha256()
        for name, asset in self._assets.items():
            digest.update(name.encode() + b"\0" + asset.data)
        self.version = digest.hexdigest()[:12]

    def url(self, name: str) -> str:
        """Where a page finds the file. KeyError: there is none."""
        self._assets[name]
        return f"/static/{self.version}/{name}"

    def answer(self, name: str, version: str, accepts: str) -> Response:
        """Raises `NotFound`. If another version is asked for, the present file is sent, and not to be cached."""
        asset = self._assets.get(name)
        if asset is None:
            raise NotFound("There is no such file.")
        headers = {
            "cache-control": FOR_EVER if version == self.version else "no-cache",
            "content-type": asset.kind,
            "x-content-type-options": "nosniff",
        }
        if asset.packed is not None:
            headers["vary"] = "accept-encoding"
            if "gzip" in accepts:
                return Response(asset.packed, headers={**headers, "content-encoding": "gzip"})
        return Response(asset.data, headers=headers)


def _read(file: Path) -> Asset:
    data = file.read_bytes()
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    if kind.startswith("text/"):
        kind += "; charset=utf-8"
    packed = gzip.compress(data, 9, mtime=0) if file.suffix in _PACKED else None
    return Asset(kind, data, packed)
