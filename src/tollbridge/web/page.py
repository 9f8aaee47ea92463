"""A row of the list of pages: its path, who may see it, and the function that makes it."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec

from tollbridge.core import roles
from tollbridge.core.roles import Role

if TYPE_CHECKING:
    from starlette.responses import Response

    from tollbridge.web.visit import Visit

Handler = Callable[["Visit"], Awaitable["Response"]]


class Who(msgspec.Struct, frozen=True):
    """Who may see it. `user`: logged in; `roles`: and with one of these in the account that they look at (none: any
    user); `operator`: and running this gateway, with a second factor."""

    user: bool = False
    roles: frozenset[Role] = frozenset()
    operator: bool = False


ANYONE = Who()
USER = Who(user=True)
MEMBER = Who(user=True, roles=roles.EVERYBODY)
DEVELOPER = Who(user=True, roles=roles.DEVELOPERS)
PAYER = Who(user=True, roles=roles.PAYERS)
ADMIN = Who(user=True, roles=roles.ADMINS)
OWNER = Who(user=True, roles=roles.OWNERS)
OPERATOR = Who(user=True, operator=True)


class Page(msgspec.Struct, frozen=True):
    """`path` may contain `{name}` (a segment) and `{name:path}` (the rest). `method`: GET answers HEAD too.

    `fresh`: only for somebody who proved a moment ago who they are; others are asked for their password first.
    `manage`: also for programs that present a management key of the account. `passes`: the body is passed on unread.
    """

    method: str
    path: str
    who: Who
    handler: Handler
    fresh: bool = False
    manage: bool = False
    passes: bool = False
