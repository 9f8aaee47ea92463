"""What the settings become: the Structs that the rest of the program reads (`table` has the settings themselves).

Values are in the program's own units: amounts in nano-USD (their names lose `_usd`), shares in parts per million,
durations in seconds, sizes in bytes. None means that nothing was set.
"""

from pathlib import Path

import msgspec

from tollbridge.config.kinds import Secret
from tollbridge.config.source import Entry, Source
from tollbridge.core.catalog import ModelRow
from tollbridge.core.plans import Plan


class Brand(msgspec.Struct, frozen=True, kw_only=True):
    """`steps`: the steps to a first call, one sentence each. `example_model`: the id that examples call."""

    name: str
    tagline: str | None = None
    lead: str | None = None
    steps: tuple[str, ...]
    example_model: str
    key_prefix: str
    header_prefix: str


class CatalogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`models`: patterns (`*`, `deepseek-*`) of the shipped models for sale."""

    models: tuple[str, ...]


class Routing(msgspec.Struct, frozen=True, kw_only=True):
    """How a request is sent to a provider unless its caller says otherwise."""

    require_parameters: bool


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """Statuses for failures that are not the caller's."""

    upstream_failed: int = 502
    no_available_provider: int = 503


class Billing(msgspec.Struct, frozen=True, kw_only=True):
    """`markup_ppm`: what prices are multiplied by, 1,000,000 being no markup; `byok_fee_ppm` likewise."""

    cost_cap: int = msgspec.field(name="cost_cap_usd")
    markup_ppm: int = msgspec.field(name="markup_percent")
    byok_fee_ppm: int = msgspec.field(name="byok_fee_percent")
    signup_grant: int = msgspec.field(name="signup_grant_usd")
    signup_plan: str
    default_hold_tokens: int
    strict_holds: bool
    charge_on_upstream_error: str
    free_loss_per_day: int = msgspec.field(name="free_loss_per_day_usd")
    packs: tuple[int, ...] = msgspec.field(name="packs_usd")
    least_top_up: int = msgspec.field(name="least_top_up_usd")
    most_top_up: int = msgspec.field(name="most_top_up_usd")
    low_balance: tuple[int, ...] = msgspec.field(name="low_balance_usd")
    customer_plans: tuple[str, ...]
    grace_days: int


class Stripe(msgspec.Struct, frozen=True, kw_only=True):
    """Payments by card; off without a key."""

    secret_key: Secret | None = None
    webhook_secret: Secret | None = None
    old_webhook_secret: Secret | None = None
    automatic_tax: bool
    base_url: str


class Invoices(msgspec.Struct, frozen=True, kw_only=True):
    """Who sells."""

    seller: str | None = None
    address: str | None = None
    tax_id: str | None = None
    prefix: str
    note: str | None = None


class BankTransfer(msgspec.Struct, frozen=True, kw_only=True):
    """Payments that the operator confirms; off without instructions."""

    instructions: str | None = None


class Pages(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's own texts, in Markdown."""

    terms: str | None = None
    privacy: str | None = None
    refunds: str | None = None
    contact: str | None = None


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """`reveal`: `once` or `always`."""

    reveal: str


class Idempotency(msgspec.Struct, frozen=True, kw_only=True):
    """Answers kept for repeated requests: seconds, and bytes per answer."""

    keep: float
    max_answer: int


class UsageSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`retention_days`: None keeps requests for ever."""

    retention_days: int | None = None
    export: Secret | None = None


class Mail(msgspec.Struct, frozen=True, kw_only=True):
    """How mail is sent. Without a host it waits in the outbox for the operator."""

    host: str | None = None
    port: int
    security: str
    username: str | None = None
    password: Secret | None = None
    sender: str | None = msgspec.field(name="from", default=None)


class LoginSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Another service that users can log in with. `kind`: oidc or github."""

    label: str
    kind: str
    issuer: str
    client_id: str
    client_secret: Secret


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds, bytes and counts; named as in `edge.connection.ServerLimits`."""

    head_timeout: float
    body_timeout: float
    keep_alive: float
    stall: float
    drain: float
    drain_pause: float
    drain_idle: float
    max_body: int
    max_bodies: int
    max_connections: int
    max_connections_per_client: int
    exempt_clients: tuple[str, ...]
    trusted_proxies: tuple[str, ...]


class Fetch(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes and seconds for one fetch; named as in `upstream.fetch.FetchLimits`. `hosts`: if empty, all."""

    allow: bool
    max_bytes: int
    timeout: float
    hosts: tuple[str, ...]


class ProviderSettings(msgspec.Struct, frozen=True, kw_only=True):
    """A provider that can be called: the shipped row of that name, if there is one, overlaid by the operator's."""

    dialect: str
    base_url: str
    auth: str
    api_key: Secret | None = None
    headers: dict[str, Secret]
    renames: dict[str, str]
    drops: tuple[str, ...]
    paths: dict[str, str]
    adds: dict[str, str]
    region: str | None = None
    project: str | None = None
    resource: str | None = None
    api_version: str | None = None
    stream_usage: bool
    cancel_stops_billing: bool
    connect_timeout: float
    first_byte_timeout: float = msgspec.field(name="timeout")
    gap_timeout: float
    total_timeout: float
    max_connections: int


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, frozen. `entries`: what `config show` prints; `warnings`: what the operator should know."""

    preset: str | None = None
    public_url: str | None = None
    database_url: Secret
    redis_url: Secret | None = None
    data_dir: Path
    host: str
    port: int
    workers: int
    secret: Secret | None = None
    secret_previous: Secret | None = None
    allow_plain_http: bool
    require_verified_email: str
    metrics_token: Secret | None = None
    brand: Brand
    catalog: CatalogSettings
    routing: Routing
    errors: Errors
    keys: Keys
    billing: Billing
    idempotency: Idempotency
    usage: UsageSettings
    mail: Mail
    stripe: Stripe
    bank_transfer: BankTransfer
    invoices: Invoices
    pages: Pages
    server: Server
    fetch: Fetch
    login: dict[str, LoginSettings]
    providers: dict[str, ProviderSettings]
    models: tuple[ModelRow, ...]
    plans: dict[str, Plan]
    source: Source
    entries: tuple[Entry, ...]
    warnings: tuple[str, ...]
