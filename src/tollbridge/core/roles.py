"""What a member of an account may do there.

owner      everything, including what cannot be undone: delete the account, name another owner
admin      everything else: members, keys, money
developer  keys, usage, playground
billing    usage and money
viewer     sees usage
"""

from enum import StrEnum


class Role(StrEnum):
    OWNER = "owner"
    ADMIN = "admin"
    DEVELOPER = "developer"
    BILLING = "billing"
    VIEWER = "viewer"


EVERYBODY = frozenset(Role)
OWNERS = frozenset({Role.OWNER})
ADMINS = frozenset({Role.OWNER, Role.ADMIN})
DEVELOPERS = frozenset({Role.OWNER, Role.ADMIN, Role.DEVELOPER})
PAYERS = frozenset({Role.OWNER, Role.ADMIN, Role.BILLING})


def may_give(giver: Role, role: Role) -> bool:
    """Whether `giver` may give somebody `role` or take it away: nobody hands out more than they have."""
    return giver is Role.OWNER or (giver is Role.ADMIN and role is not Role.OWNER)
