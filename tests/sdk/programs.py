"""Programs that somebody else wrote, run as their users run them."""

import asyncio
import os
from pathlib import Path


async def output(*command: str, cwd: Path | None = None, **environment: str) -> str:
    """What a program said; it must end well, and gets nothing to read."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said, complained = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode()[-2000:] + complained.decode()[-2000:]
    return said.decode()
