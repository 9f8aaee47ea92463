"""What was done, in words: the actions that are noted in `activity`, as pages say them after somebody's name."""

WORDS = {
    "account.opened": "opened the account",
    "account.claimed": "took over the account",
    "account.frozen": "froze the account",
    "account.unfrozen": "unfroze the account",
    "login": "logged in",
    "password.changed": "changed their password",
    "password.reset": "reset their password",
    "email.changed": "changed their e-mail address",
    "member.invited": "invited",
    "member.joined": "joined",
    "member.uninvited": "took an invitation back",
    "member.role": "changed a role",
    "member.removed": "removed a member",
    "key.created": "made a key",
    "key.changed": "changed a key",
    "key.rotated": "rotated a key",
    "key.disabled": "disabled a key",
    "key.enabled": "enabled a key",
    "key.revoked": "revoked a key",
    "management_key.created": "made a management key",
    "management_key.revoked": "revoked a management key",
    "plan.changed": "changed the plan",
    "payment.ordered": "ordered credit",
    "payment.confirmed": "confirmed a bank transfer",
    "payment.refunded": "refunded a payment",
    "payment.dismissed": "closed an order",
    "voucher.redeemed": "redeemed a voucher",
    "credit.granted": "granted credit",
    "top_up.on": "switched automatic top-ups on",
    "top_up.off": "switched automatic top-ups off",
    "card.removed": "removed the saved card",
    "details.changed": "changed the details of invoices",
    "subscription.ordered": "ordered a plan",
    "subscription.cancelled": "cancelled a plan",
    "subscription.resumed": "kept a plan",
    "vouchers.created": "made vouchers",
    "voucher.withdrawn": "withdrew a voucher",
    "alert.changed": "changed when to be told of a low balance",
}


def words(action: str) -> str:
    """The words for an action; an action that is not known stands for itself."""
    return WORDS.get(action, action)
