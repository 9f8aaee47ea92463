"""A row of the list of pages: where it is, who may, and what makes it."""

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
    """Who may. `user`: who has logged in; `roles`: and is one of these in the account that they look at (none: any
    user); `operator`: and runs this gateway, with a second factor."""

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
    """`path` may hold `{name}` (a segment) and `{name:path}` (the rest). `method`: GET answers HEAD too.

    `fresh`: only for who proved a moment ago who they are; others are asked for their password first.
    `manage`: for programs too that show a management key of the account.
    """

    method: str
    path: str
    who: Who
    handler: Handler
    fresh: bool = False
    manage: bool = False
