"""Programs that somebody else wrote, run as their users run them."""

import asyncio
import os
from pathlib import Path

SECONDS = 45.0
# Nobody listens there, so programs that would call home cannot.
NOWHERE = "http://127.0.0.1:9"


async def output(*command: str, cwd: Path | None = None, **environment: str) -> str:
    """What a program printed; it must succeed, and gets no input."""
    ours = {"HTTPS_PROXY": NOWHERE, "https_proxy": NOWHERE, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**os.environ, **ours, **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SECONDS):
            said, complained = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode()[-2000:] + complained.decode()[-2000:]
    return said.decode()
