"""G-10, G19: the version before goes on serving on the schema of this one, beside it, and the books are right."""

import asyncio
import shutil
import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from tests.gateway.fleet import Fleet, Load
from tests.gateway.site import always, completion, says

from tollbridge.store import schema

ROOT = Path(__file__).resolve().parents[2]
# The last commit of the code before; `schema.OLDEST` is its schema.
BEFORE = "bc61e3f9d8151e6a8a38739e11484c681b149696"


def sources(commit: str, folder: Path) -> Path:
    """Its `src`, out of the history: this needs a whole clone."""
    packed = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder / "src"


@pytest.mark.soak
def test_the_version_before_serves_on_beside_this_one(tmp_path: Path, postgres_url: str, valkey_url: str) -> None:
    environment = {"PYTHONPATH": str(sources(BEFORE, tmp_path / "before"))}
    folders = [tmp_path / name for name in ("old", "new")]
    for folder in folders:
        (folder / "data").mkdir(parents=True)
    answer = always(says(completion()))

    async def revision(fleet: Fleet) -> str:
        return str((await fleet.fetch(schema.REVISION))[0][0])

    async def test() -> None:
        async with Fleet(folders[0], postgres_url, valkey_url, answer, workers=0, env=environment) as old:
            assert await revision(old) == schema.OLDEST
            shutil.copy(folders[0] / "data" / "secret", folders[1] / "data" / "secret")
            before = Load(old, 6)
            before.start()
            await before.answered(200)
            async with Fleet(folders[1], postgres_url, valkey_url, answer, workers=2, key=old.key) as new:
                assert await revision(old) == schema.HEAD
                async with Load(new, 6) as after:
                    await before.answered(300)
                    await after.answered(300)
                    for fleet in (old, new):
                        for path in ("/v1/models", "/v1/credits", "/v1/key", "/ready", "/", "/auth/login"):
                            assert (await fleet.get(path)).status == 200, path
                await before.answered(100)
                await before.stop()
                assert before.failures + after.failures == []
                assert await new.fetch("SELECT COUNT(*) FROM usage") == [(before.answers + after.answers,)]
                await old.stop()

    asyncio.run(test())
