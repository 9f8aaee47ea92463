"""The schema, once, for both databases. Statements elsewhere are checked against it by a test.

Amounts are nano-USD, times milliseconds since the epoch. A hot row is small: 64-bit ids, no text ids, no copied prices.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    text,
)
from sqlalchemy.schema import SchemaItem

metadata = MetaData()

# A STRICT table of SQLite knows only INTEGER (64 bits), and a primary key declared so is the row id, for free.
Int64 = BigInteger().with_variant(Integer(), "sqlite")
Int16 = SmallInteger().with_variant(Integer(), "sqlite")
Flag = Boolean().with_variant(Integer(), "sqlite")


def _table(name: str, *parts: SchemaItem, row_ids: bool = True) -> Table:
    """Strict on SQLite, where any column would otherwise take anything. Without `row_ids`, rows lie in key order."""
    return Table(name, metadata, *parts, sqlite_strict=True, sqlite_with_rowid=row_ids)


meta = _table(
    "meta",
    # `cache_epoch`: raised by every change of a key, an account or a plan; polled by every cache of them.
    Column("name", Text, primary_key=True),
    Column("value", Int64, nullable=False),
)

process = _table(
    "process",
    Column("epoch", Int64, primary_key=True, autoincrement=True),
    Column("host", Text, nullable=False),
    Column("pid", Int64, nullable=False),
    Column("started_at", Int64, nullable=False),
    Column("heartbeat_at", Int64, nullable=False),
    Column("stopped_at", Int64),
    # Set before its holds are swept: from then on, a hold of this epoch is refused (`fenced`).
    Column("fenced_at", Int64),
    Column("swept_at", Int64),
)

account = _table(
    "account",
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("email", Text, nullable=False, unique=True),
    Column("plan", Text, nullable=False),
    Column("created_at", Int64, nullable=False),
    Column("email_verified_at", Int64),
)

account_plan = _table(
    "account_plan",
    # What was agreed with one account; overrides its plan.
    Column("account_id", Int64, ForeignKey("account.id"), primary_key=True, autoincrement=False),
    Column("rpm", Int64),
    Column("tpm", Int64),
    Column("concurrency", Int64),
    Column("included_tokens", Int64),
    Column("cost_cap", Int64),
    Column("since", Int64, nullable=False),
    Column("until", Int64, nullable=False),
)

balance = _table(
    "balance",
    Column("account_id", Int64, ForeignKey("account.id"), primary_key=True, autoincrement=False),
    Column("paid", Int64, nullable=False),
    Column("promo", Int64, nullable=False),
    Column("held", Int64, nullable=False),
    Column("frozen", Flag, nullable=False),
    CheckConstraint("held >= 0", name="balance_held_not_negative"),
    CheckConstraint("promo >= 0", name="balance_promo_not_negative"),
)

api_key = _table(
    "api_key",
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("account_id", Int64, ForeignKey("account.id"), nullable=False, index=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("pepper_id", Int16, nullable=False),
    # What may still be shown of the key: its prefix and last four characters.
    Column("hint", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("limit_nano", Int64),
    Column("created_at", Int64, nullable=False),
    Column("expires_at", Int64),
    Column("revoked_at", Int64),
    # JSON lists: allowed patterns of models, and allowed networks of callers; none: all.
    Column("models", Text),
    Column("addresses", Text),
    Column("rpm", Int64),
    Column("tpm", Int64),
    Column("concurrency", Int64),
    Column("cost_cap", Int64),
    # `daily`, `weekly` or `monthly`: the limit applies to each such period; none: it never begins anew.
    Column("limit_reset", Text),
    Column("disabled_at", Int64),
)

key_spend = _table(
    "key_spend",
    # Only for keys with a limit: an unlimited key costs no row.
    Column("key_id", Int64, ForeignKey("api_key.id"), primary_key=True, autoincrement=False),
    Column("spent", Int64, nullable=False),
    Column("held", Int64, nullable=False),
    # `spent` counts what ended from this moment on; none: everything.
    Column("since", Int64),
    CheckConstraint("held >= 0", name="key_spend_held_not_negative"),
)

price_version = _table(
    "price_version",
    Column("id", Int64, primary_key=True, autoincrement=True),
    # SHA-256 of `terms`: the same terms are the same version.
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    # JSON: model, provider, upstream_model, price, cost (pico-USD per token by meter), multiplier_ppm.
    Column("terms", Text, nullable=False),
    Column("created_at", Int64, nullable=False),
)

allowance = _table(
    "allowance",
    # The tokens that an account's plan includes in one month (YYYYMM, UTC): how many at the last hold, used, reserved.
    Column("account_id", Int64, ForeignKey("account.id"), primary_key=True, autoincrement=False),
    Column("period", Int64, primary_key=True, autoincrement=False),
    Column("included", Int64, nullable=False),
    Column("used", Int64, nullable=False),
    Column("held", Int64, nullable=False),
    CheckConstraint("used >= 0 AND held >= 0", name="allowance_not_negative"),
)

hold = _table(
    "hold",
    # Epoch of the process and a counter, so that one process's holds are one range. Ended once `usage` has its id.
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("account_id", Int64, nullable=False),
    Column("key_id", Int64, nullable=False),
    Column("amount", Int64, nullable=False),
    Column("limited", Flag, nullable=False),
    Column("expires_at", Int64, nullable=False),
    # For a hold on included tokens: how many at first, and of which month (YYYYMM). Its `amount` is 0, and its steps
    # are tokens too.
    Column("tokens", Int64),
    Column("period", Int64),
    CheckConstraint("amount >= 0", name="hold_amount_not_negative"),
)

hold_step = _table(
    "hold_step",
    Column("hold_id", Int64, primary_key=True, autoincrement=False),
    Column("step", Integer, primary_key=True, autoincrement=False),
    Column("amount", Int64, nullable=False),
    CheckConstraint("amount >= 0", name="hold_step_amount_not_negative"),
)

checkpoint = _table(
    "checkpoint",
    # What a running stream would be charged if its process died now; deleted when it ends.
    Column("hold_id", Int64, primary_key=True, autoincrement=False),
    Column("charge", Int64, nullable=False),
    Column("record", LargeBinary, nullable=False),
)

usage = _table(
    "usage",
    # A hold's end, its journal transaction and the usage record in one row (core.ledger.usage_entries).
    Column("hold_id", Int64, primary_key=True, autoincrement=False),
    Column("account_id", Int64, nullable=False),
    Column("key_id", Int64, nullable=False),
    Column("ended_at", Int64, nullable=False),
    Column("held", Int64, nullable=False),
    Column("charge", Int64, nullable=False),
    Column("promo", Int64, nullable=False),
    Column("loss", Int64, nullable=False),
    Column("cost", Int64, nullable=False),
    Column("price_version", Int64, nullable=False),
    Column("input", Int64, nullable=False),
    Column("cache_read", Int64, nullable=False),
    Column("cache_write", Int64, nullable=False),
    Column("cache_write_1h", Int64, nullable=False),
    Column("output", Int64, nullable=False),
    Column("reasoning", Int64, nullable=False),
    Column("started_at", Int64, nullable=False),
    Column("duration_ms", Int64, nullable=False),
    Column("first_byte_ms", Int64),
    Column("outcome", Int16, nullable=False),
    Column("status", Int16, nullable=False),
    # Bits: 1 streamed, 2 estimated, 4 suspect, 8 the key's spend carried it, 16 the customer's own credential paid.
    Column("flags", Int16, nullable=False),
    Column("finish", Text),
    Column("raw", LargeBinary),
    Column("attempts", LargeBinary),
    # JSON: counts of `audio_input`, `audio_output`, `image_output` (tokens) and `searches` (calls); NULL: none of them.
    Column("meters", Text),
    # Tokens taken from those that the plan includes; nothing was charged then. NULL: the hold was of money.
    Column("allowance", Int64),
    CheckConstraint("charge >= 0 AND promo >= 0 AND loss >= 0 AND promo <= charge", name="usage_amounts"),
    Index("usage_by_account", "account_id", "ended_at"),
    # Almost free on PostgreSQL, where rows lie in the order in which they ended. SQLite has no such index.
    Index("usage_by_time", "ended_at", postgresql_using="brin", postgresql_with={"autosummarize": "on"}).ddl_if(
        dialect="postgresql"
    ),
)

claim = _table(
    "claim",
    # Whose `Idempotency-Key` it is (SHA-256), for which request (SHA-256 of path and body), and the hold that ran it.
    Column("account_id", Int64, primary_key=True, autoincrement=False),
    Column("name", LargeBinary(32), primary_key=True),
    Column("digest", LargeBinary(32), nullable=False),
    Column("hold_id", Int64, nullable=False),
    Column("created_at", Int64, nullable=False),
)

kept_answer = _table(
    "kept_answer",
    # The answer to a claimed request, sealed.
    Column("hold_id", Int64, primary_key=True, autoincrement=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", Int64, nullable=False),
)

journal = _table(
    "journal",
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("idempotency_key", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("account_id", Int64, nullable=False, index=True),
    Column("reason", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("created_at", Int64, nullable=False),
    Index("journal_by_account", "account_id", "created_at", "id"),
    Index("journal_late", "created_at", sqlite_where=text("kind = 'late'"), postgresql_where=text("kind = 'late'")),
)

entry = _table(
    "entry",
    Column("journal_id", Int64, ForeignKey("journal.id"), primary_key=True, autoincrement=False),
    Column("line", Int16, primary_key=True, autoincrement=False),
    Column("book", Text, nullable=False),
    Column("amount", Int64, nullable=False),
)

seal = _table(
    "seal",
    # A closed range of one kind of rows, and a digest over it that is chained to the chain's previous seal.
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("chain", Text, nullable=False),  # 'journal', 'activity', 'invoice', 'price', or 'usage/<epoch>'
    Column("first_id", Int64, nullable=False),
    Column("last_id", Int64, nullable=False),
    Column("row_count", Int64, nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("created_at", Int64, nullable=False),
    # Two processes that seal at once begin at the same row: one of them is refused.
    Index("seal_by_chain", "chain", "first_id", unique=True),
)

user = _table(
    "user",
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("email", Text, nullable=False, unique=True),
    # An argon2id hash in PHC form; none: logs in by other means, or not yet.
    Column("password", Text),
    Column("operator", Flag, nullable=False),
    Column("created_at", Int64, nullable=False),
    Column("verified_at", Int64),
    Column("consented_at", Int64),
    # Sealed. In use from `totp_since` on; `totp_step` is the last time step whose code was accepted.
    Column("totp_secret", LargeBinary),
    Column("totp_since", Int64),
    Column("totp_step", Int64, nullable=False),
    # Sealed. Takes the place of `totp_secret` when its first code is given.
    Column("totp_proposed", LargeBinary),
)

session = _table(
    "session",
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("public_id", Text, nullable=False, unique=True),
    # SHA-256 of the cookie's content.
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("user_id", Int64, ForeignKey("user.id"), nullable=False, index=True),
    # The account being looked at, one of those that the user is a member of.
    Column("account_id", Int64, ForeignKey("account.id")),
    Column("created_at", Int64, nullable=False),
    Column("seen_at", Int64, nullable=False),
    # When the user last proved who they are by password, code or passkey.
    Column("proved_at", Int64, nullable=False),
    Column("factors", Integer, nullable=False),
    Column("address", Text, nullable=False),
    Column("agent", Text, nullable=False),
)

throttle = _table(
    "throttle",
    # What is counted (`login/<digest>`), how often since when, and when last.
    Column("name", Text, primary_key=True),
    Column("count", Int64, nullable=False),
    Column("since", Int64, nullable=False),
    Column("last", Int64, nullable=False, index=True),
)

recovery_code = _table(
    "recovery_code",
    Column("digest", LargeBinary(32), primary_key=True),
    Column("user_id", Int64, ForeignKey("user.id"), nullable=False, index=True),
)

passkey = _table(
    "passkey",
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("user_id", Int64, ForeignKey("user.id"), nullable=False, index=True),
    Column("credential", LargeBinary, nullable=False, unique=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("counter", Int64, nullable=False),
    Column("label", Text, nullable=False),
    Column("created_at", Int64, nullable=False),
    Column("used_at", Int64),
)

identity = _table(
    "identity",
    # Who a user is at a log-in provider.
    Column("issuer", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("user_id", Int64, ForeignKey("user.id"), nullable=False, index=True),
    Column("created_at", Int64, nullable=False),
)

membership = _table(
    "membership",
    Column("account_id", Int64, ForeignKey("account.id"), primary_key=True, autoincrement=False),
    Column("user_id", Int64, ForeignKey("user.id"), primary_key=True, autoincrement=False),
    Column("role", Text, nullable=False),
    Column("created_at", Int64, nullable=False),
    Index("membership_by_user", "user_id"),
)

invitation = _table(
    "invitation",
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("account_id", Int64, ForeignKey("account.id"), nullable=False, index=True),
    Column("email", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("created_at", Int64, nullable=False),
    Column("expires_at", Int64, nullable=False),
    # The id of a user; NULL: sent by a version that did not note it.
    Column("invited_by", Int64),
)

key_copy = _table(
    "key_copy",
    # A key that may be shown again, sealed; deleted once shown, unless `keys.reveal` is "always".
    Column("key_id", Int64, ForeignKey("api_key.id"), primary_key=True, autoincrement=False),
    Column("sealed", LargeBinary, nullable=False),
)

activity = _table(
    "activity",
    # What was done in an account, for its members to read.
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("account_id", Int64, nullable=False),
    Column("at", Int64, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("address", Text, nullable=False),
    # `activity.proof` of actor, detail and address, and the salt in it, which goes when they are forgotten.
    Column("proof", LargeBinary(32)),
    Column("salt", LargeBinary(16)),
    Index("activity_by_account", "account_id", "id"),
)

mail_token = _table(
    "mail_token",
    # SHA-256 of the link's secret; the row goes when the link is used.
    Column("digest", LargeBinary(32), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("user_id", Int64, ForeignKey("user.id"), nullable=False, index=True),
    Column("email", Text, nullable=False),
    Column("expires_at", Int64, nullable=False),
)

outbox = _table(
    "outbox",
    # A mail. Its text is sealed, and deleted once sent: it holds a link that lets somebody in.
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("recipient", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("sealed", LargeBinary),
    Column("created_at", Int64, nullable=False),
    Column("next_at", Int64, nullable=False),
    Column("sent_at", Int64),
    Column("tries", Int64, nullable=False),
    Column("error", Text, nullable=False),
)

payment = _table(
    "payment",
    # An order for credit: what was agreed, against which everything a processor says is checked.
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("account_id", Int64, ForeignKey("account.id"), nullable=False),
    # Unique per account: an order repeated with the same text is the same order.
    Column("once", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("amount", Int64, nullable=False),
    Column("currency", Text, nullable=False),
    Column("status", Text, nullable=False),
    # The processor's id of the order (a session), or the reference of a transfer; later its id of the payment.
    Column("external_id", Text, unique=True),
    Column("intent", Text, unique=True),
    Column("url", Text),
    Column("save_card", Flag, nullable=False),
    Column("tax", Int64, nullable=False),
    Column("fee", Int64, nullable=False),
    # Why it failed, or what a person should look at.
    Column("note", Text, nullable=False),
    Column("created_at", Int64, nullable=False),
    Column("paid_at", Int64),
    # When to ask the processor next; none: nothing is waited for.
    Column("check_at", Int64),
    # The plan of which it paid for a month; none: it bought credit.
    Column("subscription_id", Int64),
    CheckConstraint("amount > 0 AND tax >= 0 AND fee >= 0", name="payment_amounts"),
    Index("payment_by_account", "account_id", "once", unique=True),
    Index("payment_by_check", "check_at"),
    Index("payment_by_subscription", "subscription_id"),
)

subscription = _table(
    "subscription",
    # A plan paid for by the month: one at a time per account.
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("account_id", Int64, ForeignKey("account.id"), nullable=False, index=True),
    Column("method", Text, nullable=False),
    Column("plan", Text, nullable=False),
    # The price of a month, before tax; a new price applies to new subscriptions.
    Column("amount", Int64, nullable=False),
    Column("currency", Text, nullable=False),
    Column("stage", Text, nullable=False),
    # The processor's ids of the page on which it was ordered, and of the subscription.
    Column("session", Text, unique=True),
    Column("external_id", Text, unique=True),
    Column("url", Text),
    Column("paid_until", Int64),
    # Whether it ends when the paid period is over.
    Column("ending", Flag, nullable=False),
    Column("created_at", Int64, nullable=False),
    Column("ended_at", Int64),
    Column("check_at", Int64),
    CheckConstraint("amount > 0", name="subscription_amount"),
    Index("subscription_by_check", "check_at"),
    Index(
        "subscription_open",
        "account_id",
        unique=True,
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
)

payment_event = _table(
    "payment_event",
    # The inbox: what a processor told us about, and whether it was dealt with. Never its text.
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("object_id", Text, nullable=False),
    Column("intent", Text),
    Column("received_at", Int64, nullable=False),
    Column("done_at", Int64),
    # When to try again; none: it was dealt with.
    Column("retry_at", Int64, index=True),
    Column("tries", Int64, nullable=False),
)

reversal = _table(
    "reversal",
    # Money of a payment that went back: a refund or a dispute. `amount` includes tax; `credit`: what the customer lost.
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("payment_id", Int64, ForeignKey("payment.id"), nullable=False, index=True),
    Column("kind", Text, nullable=False),
    Column("external_id", Text, unique=True),
    Column("amount", Int64, nullable=False),
    Column("credit", Int64, nullable=False),
    Column("fee", Int64, nullable=False),
    Column("state", Text, nullable=False),
    # Whether the account was frozen because of it, and was not before.
    Column("froze", Flag, nullable=False),
    Column("created_at", Int64, nullable=False),
    CheckConstraint("amount > 0 AND credit >= 0 AND credit <= amount AND fee >= 0", name="reversal_amounts"),
)

invoice = _table(
    "invoice",
    # Numbers without gaps. `seller` and `buyer` are JSON, as of the day of issue.
    Column("number", Int64, primary_key=True, autoincrement=False),
    Column("kind", Text, nullable=False),
    Column("payment_id", Int64, ForeignKey("payment.id"), nullable=False),
    Column("reversal_id", Int64, ForeignKey("reversal.id")),
    Column("account_id", Int64, ForeignKey("account.id"), nullable=False, index=True),
    Column("issued_at", Int64, nullable=False),
    Column("amount", Int64, nullable=False),
    Column("tax", Int64, nullable=False),
    Column("currency", Text, nullable=False),
    Column("seller", Text, nullable=False),
    Column("buyer", Text, nullable=False),
    Index("invoice_by_payment", "payment_id", "kind"),
    Index("invoice_by_reversal", "reversal_id", "kind", unique=True),
)

buyer = _table(
    "buyer",
    # Whom invoices are made out to, and the card that may be charged while nobody is there.
    Column("account_id", Int64, ForeignKey("account.id"), primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False),
    Column("address", Text, nullable=False),
    Column("tax_id", Text, nullable=False),
    Column("customer", Text, unique=True),
    Column("card", Text),
    Column("card_hint", Text),
)

auto_top_up = _table(
    "auto_top_up",
    Column("account_id", Int64, ForeignKey("account.id"), primary_key=True, autoincrement=False),
    Column("threshold", Int64, nullable=False),
    Column("amount", Int64, nullable=False),
    Column("daily_cap", Int64, nullable=False),
    # The payment in progress: one at a time.
    Column("payment_id", Int64, ForeignKey("payment.id")),
    Column("failures", Int64, nullable=False),
    # Why it does nothing until the customer switches it on again; none: it works.
    Column("stopped", Text),
    CheckConstraint("threshold >= 0 AND amount > 0 AND daily_cap >= amount", name="auto_top_up_amounts"),
)

voucher = _table(
    "voucher",
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("hint", Text, nullable=False),
    # `promo` or `paid`: whether somebody has paid for it.
    Column("kind", Text, nullable=False),
    Column("amount", Int64, nullable=False),
    Column("note", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("created_at", Int64, nullable=False),
    Column("expires_at", Int64),
    Column("withdrawn_at", Int64),
    Column("redeemed_at", Int64),
    Column("account_id", Int64, ForeignKey("account.id")),
    CheckConstraint("amount > 0", name="voucher_amount"),
    CheckConstraint("(redeemed_at IS NULL) = (account_id IS NULL)", name="voucher_redeemed"),
)

low_balance = _table(
    "low_balance",
    # The lowest threshold that an account was told of; deleted when its balance is above all of them.
    Column("account_id", Int64, ForeignKey("account.id"), primary_key=True, autoincrement=False),
    Column("threshold", Int64, nullable=False),
    Column("told_at", Int64, nullable=False),
)

balance_alert = _table(
    "balance_alert",
    # The threshold that a customer chose instead of the operator's; 0: never.
    Column("account_id", Int64, ForeignKey("account.id"), primary_key=True, autoincrement=False),
    Column("threshold", Int64, nullable=False),
    CheckConstraint("threshold >= 0", name="balance_alert_not_negative"),
)

byok = _table(
    "byok",
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("account_id", Int64, ForeignKey("account.id"), nullable=False, index=True),
    Column("provider", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("hint", Text, nullable=False),
    # The credential, by `services.secrets.Secrets.seal`.
    Column("sealed", LargeBinary, nullable=False),
    # Models served by it are never called with the operator's credential.
    Column("exclusive", Flag, nullable=False),
    Column("created_at", Int64, nullable=False),
)

usage_rollup = _table(
    "usage_rollup",
    # Sums of `usage` up to the time `meta.rolled_up`, kept twice: by hour and by day (`span` in milliseconds).
    Column("account_id", Int64, primary_key=True, autoincrement=False),
    Column("span", Int64, primary_key=True, autoincrement=False),
    Column("start", Int64, primary_key=True, autoincrement=False),
    Column("key_id", Int64, primary_key=True, autoincrement=False),
    Column("price_version", Int64, primary_key=True, autoincrement=False),
    Column("requests", Int64, nullable=False),
    Column("errors", Int64, nullable=False),
    Column("charge", Int64, nullable=False),
    Column("cost", Int64, nullable=False),
    Column("input", Int64, nullable=False),
    Column("cache_read", Int64, nullable=False),
    Column("cache_write", Int64, nullable=False),
    Column("cache_write_1h", Int64, nullable=False),
    Column("output", Int64, nullable=False),
    Column("reasoning", Int64, nullable=False),
    Column("duration_ms", Int64, nullable=False),
    # Only of requests that recorded when their first byte came: `first_bytes` of them.
    Column("first_byte_ms", Int64, nullable=False),
    Column("first_bytes", Int64, nullable=False),
    Column("audio_input", Int64, nullable=False),
    Column("audio_output", Int64, nullable=False),
    Column("image_output", Int64, nullable=False),
    Column("searches", Int64, nullable=False),
    # When the last of them ended.
    Column("last_at", Int64, nullable=False),
    row_ids=False,
)

management_key = _table(
    "management_key",
    # A key that manages an account's API keys but can call no model: /v1 does not know it.
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("public_id", Text, nullable=False, unique=True),
    Column("account_id", Int64, ForeignKey("account.id"), nullable=False, index=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("hint", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("created_at", Int64, nullable=False),
    # To the minute.
    Column("used_at", Int64),
    Column("revoked_at", Int64),
    # As in `api_key`; none: 1.
    Column("pepper_id", Int16),
)

usage_day = _table(
    "usage_day",
    # Daily sums of all usage up to the time `meta.summed_by_day`, kept in the four groupings of `store.usage_days`.
    Column("grouped", Int16, primary_key=True, autoincrement=False),
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("start", Int64, primary_key=True, autoincrement=False),
    *(
        Column(name, Int64, nullable=False)
        for name in ("requests", "prompt", "output", "charge", "promo", "loss", "cost")
    ),
    Index("usage_day_by_start", "grouped", "start"),
    row_ids=False,
)

carried = _table(
    "carried",
    # What dropped usage rows add up to (`store.retention`).
    Column("kind", Text, primary_key=True),
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("part", Int64, primary_key=True, autoincrement=False),
    Column("amount", Int64, nullable=False),
)

closing = _table(
    "closing",
    # A dropped range of holds, the last end in it, and the `sum` over all of `carried` then; chained as seals are.
    Column("id", Int64, primary_key=True, autoincrement=True),
    Column("chain", Text, nullable=False),
    Column("first_id", Int64, nullable=False),
    Column("last_id", Int64, nullable=False),
    Column("row_count", Int64, nullable=False),
    Column("until", Int64, nullable=False),
    Column("sum", LargeBinary(32), nullable=False),
    Column("digest", LargeBinary(32), nullable=False),
    Column("created_at", Int64, nullable=False),
    Index("closing_by_chain", "chain", "first_id", unique=True),
)
