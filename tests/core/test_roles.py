"""Nobody gives or takes more than they have."""

from tollbridge.core.roles import ADMINS, DEVELOPERS, EVERYBODY, OWNERS, PAYERS, Role, may_give


def test_owners_give_every_role_admins_all_but_one_and_others_none() -> None:
    assert {role for role in Role if may_give(Role.OWNER, role)} == EVERYBODY
    assert {role for role in Role if may_give(Role.ADMIN, role)} == EVERYBODY - OWNERS
    for giver in EVERYBODY - ADMINS:
        assert not any(may_give(giver, role) for role in Role)


def test_money_and_keys_are_apart() -> None:
    assert DEVELOPERS & PAYERS == ADMINS
    assert Role.VIEWER not in DEVELOPERS | PAYERS
