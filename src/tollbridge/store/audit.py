"""The books are proved beside a serving gateway, in a process of their own: reading all of them takes a core.

`python -m tollbridge.store.audit` proves those of the database named by `TOLLBRIDGE_DATABASE_URL` and prints what is
wrong, one problem a line.
"""

import asyncio
import os
import sys

from tollbridge.errors import TollbridgeError
from tollbridge.store.db import open_database
from tollbridge.store.schema import URL_VARIABLE, run_apart
from tollbridge.store.verify import verify

# It yields to everything that serves.
NICENESS = 15
PATIENCE_S = 60.0
# Exit statuses: the books are wrong; they could not be read.
WRONG, UNREADABLE = 1, 2


class AuditFailed(TollbridgeError):
    """The books could not be read to the end, which says nothing about whether they are right."""


async def audit(url: str) -> list[str]:
    """What is wrong with the books at `url`; usually nothing."""
    status, said, complaint = await run_apart("tollbridge.store.audit", url)
    if status not in (0, WRONG):
        raise AuditFailed(f"the books could not be read: {complaint}")
    return said.splitlines()


async def _main(url: str) -> int:
    database = open_database(url, statement_timeout=PATIENCE_S)
    await database.start()
    try:
        report = await verify(database)
    finally:
        await database.close()
    for problem in report.problems:
        sys.stdout.write(f"{' '.join(problem.split())}\n")
    return 0 if report.ok else WRONG


if __name__ == "__main__":
    os.nice(NICENESS)
    try:
        status = asyncio.run(_main(os.environ.get(URL_VARIABLE, "")))
    except TollbridgeError as failure:
        sys.stderr.write(f"{' '.join(str(failure).split())}\n")
        status = UNREADABLE
    sys.exit(status)
