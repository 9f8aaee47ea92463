"""Journal transactions to play with, as `core.payments` makes them of payments."""

from tollbridge.core.ledger import Book, Kind, Post, entries_of


def refund(account_id: int, amount: int, *, idempotency_key: str, reason: str, actor: str) -> Post:
    """Paid credit given back in money. May overdraw: the customer may have spent it."""
    return Post(
        idempotency_key=idempotency_key,
        kind=Kind.REFUND,
        account_id=account_id,
        entries=entries_of((Book.CUSTOMER_PAID, -amount), (Book.CLEARING, amount)),
        reason=reason,
        actor=actor,
    )
