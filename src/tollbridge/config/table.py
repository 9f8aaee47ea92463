"""Every setting there is: SETTINGS is the table, GROUPS the tables of the file that its rows belong to."""

from typing import Any

import msgspec

from tollbridge.config import kinds
from tollbridge.config.kinds import Kind, choice, duration, one_of, size, some, text, whole
from tollbridge.config.settings import (
    BankTransfer,
    Billing,
    Brand,
    CatalogSettings,
    Errors,
    Fetch,
    Idempotency,
    Invoices,
    Keys,
    LoginSettings,
    Mail,
    Pages,
    ProviderSettings,
    Routing,
    Server,
    Settings,
    Stripe,
    UsageSettings,
)
from tollbridge.core.catalog import CAPABILITIES, MODALITIES, TYPES, ModelRow, RouteRow
from tollbridge.core.plans import Plan

MANY = 1_000_000_000
# Each a file of `data/presets`.
PRESETS = ("model-database", "modelbridge")


class Setting(msgspec.Struct, frozen=True):
    """A row of the table. `default`: as it would be written in the file; None: not set."""

    name: str
    kind: Kind
    default: Any
    help: str
    required: bool = False


class Group(msgspec.Struct, frozen=True):
    """A table of the file, and the Struct that it becomes. `x.NAME`: many by name, `x[]`: many in order."""

    name: str
    type: type[msgspec.Struct]
    help: str

    @property
    def parent(self) -> str:
        return self._base.rpartition(".")[0]

    @property
    def key(self) -> str:
        return self._base.rpartition(".")[2]

    @property
    def named(self) -> bool:
        return self.name.endswith(".NAME")

    @property
    def listed(self) -> bool:
        return self.name.endswith("[]")

    @property
    def _base(self) -> str:
        return self.name.removesuffix(".NAME").removesuffix("[]")


GROUPS = (
    Group("", Settings, "The top level of the file."),
    Group("brand", Brand, "What customers see."),
    Group("keys", Keys, "API keys."),
    Group("catalog", CatalogSettings, "Which of the shipped models are for sale. Models of your own always are."),
    Group("routing", Routing, "How a request is sent to a provider unless its caller says otherwise."),
    Group("errors", Errors, "The HTTP statuses of failures that are a provider's."),
    Group("billing", Billing, "Money."),
    Group(
        "idempotency",
        Idempotency,
        "Answers to requests with an `Idempotency-Key`, kept encrypted: whoever asks again gets the same, and is not "
        "charged.",
    ),
    Group("usage", UsageSettings, "Rows of single requests: how long they stay, and where else they go."),
    Group(
        "mail", Mail, "How mail is sent to users. Without a `host` it waits in the outbox, for the operator to read."
    ),
    Group("stripe", Stripe, "Payment by card through Stripe. Without a key there is none."),
    Group("bank_transfer", BankTransfer, "Payment by bank transfer, which the operator confirms."),
    Group("invoices", Invoices, "What invoices say of you."),
    Group("pages", Pages, "Your own texts: files in Markdown. Without one its page says what is missing."),
    Group(
        "login.NAME",
        LoginSettings,
        "Other services by which users can log in. Its redirect address is `{public_url}/auth/with/NAME/back`.",
    ),
    Group("server", Server, "What one caller may take of the server."),
    Group(
        "fetch",
        Fetch,
        "URLs in messages (pictures, documents, sound). They are passed on and never fetched by this gateway unless "
        "you allow it; then only for providers that take no URLs, and only from the public internet.",
    ),
    Group(
        "providers.NAME",
        ProviderSettings,
        "Where models are called. A shipped provider needs only its credential, here or in its usual environment "
        "variable; any other OpenAI-compatible server needs a `base_url`.",
    ),
    Group("models[]", ModelRow, "Models of your own, or a shipped model in your own words."),
    Group("models[].routes[]", RouteRow, "Where a model is called, in the order that routes are tried."),
    Group(
        "plans.NAME",
        Plan,
        "What accounts may do. `free`, `pro` and `custom` ship: what you write replaces their values one by one. An "
        "account without a plan of its own has the plan `default`, which has no limits unless you set some.",
    ),
)

SETTINGS = (
    Setting(
        "preset",
        choice(*PRESETS),
        None,
        "A whole product to start from: brand, plans, packs, catalog and errors as one. What you set beside it wins.",
    ),
    Setting("host", kinds.HOST, "127.0.0.1", "The address to listen on."),
    Setting("port", whole(0, 65535), 8000, "The port to listen on; 0 takes a free one."),
    Setting(
        "workers",
        whole(1, 256),
        1,
        "How many processes serve on this machine: about as many as it has cores. Several need PostgreSQL and Redis.",
    ),
    Setting("data_dir", kinds.PATH, "data", "Where files are kept: the SQLite database, the master secret, the spool."),
    Setting(
        "public_url", kinds.PUBLIC_URL, None, "Where customers reach the gateway. By default its own host and port."
    ),
    Setting(
        "database_url",
        kinds.DATABASE_URL,
        None,
        "`sqlite:///path` or `postgresql://user:password@host/name`. By default `tollbridge.db` in `data_dir`.",
    ),
    Setting(
        "redis_url",
        kinds.REDIS_URL,
        None,
        "`redis://host:6379/0` of a Redis or Valkey that holds the rate limits of all processes of one gateway. "
        "Without it each process limits for itself, which is right for one.",
    ),
    Setting(
        "secret",
        kinds.SECRET,
        None,
        "The master secret, at least 32 random characters; all machines of one gateway share it. By default the file "
        "`secret` in `data_dir`, made at the first start. Without it no key works any more.",
    ),
    Setting(
        "secret_previous",
        kinds.SECRET,
        None,
        "The master secret before it, while it is rotated: see `tollbridge secrets rotate`. Needs `secret`.",
    ),
    Setting(
        "allow_plain_http",
        kinds.FLAG,
        False,
        "Accept URLs of other networks without TLS: keys and prompts can then be read in transit.",
    ),
    Setting(
        "require_verified_email",
        choice("auto", "always", "never"),
        "auto",
        "Whether users must follow a link sent to their address before they can log in. `auto`: when mail can be sent.",
    ),
    Setting(
        "metrics_token",
        kinds.SECRET,
        None,
        "The token that `GET /metrics` needs: `Authorization: Bearer TOKEN`. Without it only this machine may ask,"
        " and nobody if there is a `public_url`.",
    ),
    Setting("brand.name", text('such as "Tollbridge"', most=60), "Tollbridge", "The name of your service."),
    Setting(
        "brand.tagline",
        text('such as "One key for every model"', most=120),
        None,
        "The headline of the home page. By default, how many models there are.",
    ),
    Setting(
        "brand.lead",
        text('such as "Keep your code, change the base URL."', most=400),
        None,
        "The text below the headline. By default, that the base URL is all that changes.",
    ),
    Setting(
        "brand.steps",
        kinds.LINES,
        [],
        "The way to a first call, for the home page: a sentence each. By default the usual three steps.",
    ),
    Setting(
        "brand.example_model",
        text('such as "deepseek-chat"', r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*", 128),
        "deepseek-chat",
        "The model that examples call, where it is for sale.",
    ),
    Setting(
        "brand.key_prefix",
        text('such as "tb_live_" (letters, digits, - and _, the last - or _)', r"[A-Za-z][A-Za-z0-9_-]{0,22}[_-]", 24),
        "tb_live_",
        "How API keys begin. Keys made with another prefix stop working.",
    ),
    Setting(
        "brand.header_prefix",
        text('such as "X-Tollbridge" (letters, digits and -)', r"[A-Za-z][A-Za-z0-9-]{0,30}[A-Za-z0-9]", 32),
        "X-Tollbridge",
        "How the names of money headers begin.",
    ),
    Setting(
        "keys.reveal",
        choice("once", "always"),
        "once",
        "How often a key is shown in full. `always`: an encrypted copy is kept for the dashboard.",
    ),
    Setting(
        "catalog.models", kinds.TEXTS, ["*"], "Patterns of the shipped models that are for sale, such as `deepseek-*`."
    ),
    Setting(
        "routing.require_parameters",
        kinds.FLAG,
        True,
        "Refuse fields that a provider cannot take (400), unless a request's `provider.require_parameters` decides. If "
        "false, they are left out, and a header of the answer names them.",
    ),
    Setting("errors.upstream_failed", one_of(502, 500), 502, "When a provider answers with a server error."),
    Setting("errors.no_available_provider", one_of(503, 502), 503, "When none of a model's providers can be called."),
    Setting("billing.cost_cap_usd", kinds.USD, "5.00", "The most one request may cost."),
    Setting("billing.markup_percent", kinds.PERCENT, "0", "What customers pay on top of every price."),
    Setting(
        "billing.byok_fee_percent",
        kinds.PERCENT,
        "5",
        "The share of the price that customers pay for a call made with their own credential at the provider.",
    ),
    Setting(
        "billing.signup_grant_usd", kinds.USD, "0.50", "Promotional credit of the first account, and of each sign-up."
    ),
    Setting(
        "billing.signup_plan",
        text('such as "free"', r"[a-z0-9][a-z0-9_.-]*", 60),
        "free",
        "The plan of everyone who signs up, and of those who no longer pay for one. `default` has no limits.",
    ),
    Setting(
        "billing.default_hold_tokens",
        whole(1, MANY),
        16384,
        "How many output tokens are reserved at first when the caller sets no limit.",
    ),
    Setting(
        "billing.strict_holds",
        kinds.FLAG,
        False,
        "Reserve the most that a request can cost, instead of a part that grows while it runs.",
    ),
    Setting(
        "billing.charge_on_upstream_error",
        choice("none", "partial"),
        "none",
        "What is charged for an answer that a provider broke off: nothing, or the part that was delivered.",
    ),
    Setting(
        "billing.free_loss_per_day_usd",
        kinds.USD,
        "1.00",
        "How much an account may get for nothing a day, in answers broken off or left, or beyond what was held.",
    ),
    Setting("billing.packs_usd", kinds.PACKS, [10, 50, 200], "The credit packs that customers can buy."),
    Setting("billing.least_top_up_usd", kinds.CENTS, "5", "The smallest amount that a customer may choose to pay."),
    Setting("billing.most_top_up_usd", kinds.CENTS, "1000", "The largest amount that a customer may pay at once."),
    Setting(
        "billing.low_balance_usd",
        kinds.PACKS,
        [1, 5],
        "A customer who has bought credit is told when less than this is left; an empty list tells nobody.",
    ),
    Setting(
        "billing.customer_plans",
        kinds.TEXTS,
        ["free", "pro"],
        "Plans that customers may change to by themselves, if their `price_usd` is none or 0.",
    ),
    Setting(
        "billing.grace_days",
        whole(0, 60),
        7,
        "How many days an account keeps a plan whose next month could not be paid.",
    ),
    Setting(
        "stripe.secret_key",
        kinds.SECRET,
        None,
        "The key of your Stripe account, `sk_live_…`, `sk_test_…` or a restricted `rk_…`: `env:STRIPE_SECRET_KEY`.",
    ),
    Setting(
        "stripe.webhook_secret",
        kinds.SECRET,
        None,
        "What Stripe signs its webhooks with, `whsec_…`. Needed along with the key: payments are credited by webhook.",
    ),
    Setting(
        "stripe.old_webhook_secret",
        kinds.SECRET,
        None,
        "The previous one, also accepted while Stripe rolls over from one to the other.",
    ),
    Setting("stripe.automatic_tax", kinds.FLAG, False, "Let Stripe add the tax that is due where the customer is."),
    Setting("stripe.base_url", kinds.BASE_URL, "https://api.stripe.com", "Where Stripe's API is."),
    Setting(
        "bank_transfer.instructions",
        text("what customers are to do", r"[^\x00-\x09\x0b-\x1f\x7f]+", 2000),
        None,
        "Where to send the money: bank, account, holder. The reference of the order is shown beside it.",
    ),
    Setting("invoices.seller", text('such as "Example Ltd"', most=200), None, "Your name. By default the brand's."),
    Setting(
        "invoices.address",
        text("your address", r"[^\x00-\x09\x0b-\x1f\x7f]+", 500),
        None,
        "Your address, in as many lines as it has.",
    ),
    Setting("invoices.tax_id", text('such as "DE123456789"', most=60), None, "Your tax number."),
    Setting(
        "invoices.prefix",
        text('such as "INV-" (letters, digits, - and /)', r"[A-Za-z0-9/-]{1,12}", 12),
        "INV-",
        "How the numbers of invoices begin.",
    ),
    Setting("invoices.note", text('such as "Reverse charge"', most=500), None, "A line at the end of each invoice."),
    Setting("pages.terms", kinds.FILE, None, "Your terms of service: `/terms`."),
    Setting("pages.privacy", kinds.FILE, None, "How you handle personal data: `/privacy`."),
    Setting("pages.refunds", kinds.FILE, None, "When you give money back: `/refunds`."),
    Setting("pages.contact", kinds.FILE, None, "How to reach you: `/contact`."),
    Setting(
        "usage.retention_days",
        whole(7, 36_500),
        None,
        "Days after which single requests are dropped; sums, statements and proofs stay. By default, none are dropped.",
    ),
    Setting(
        "usage.export",
        kinds.EXPORT_URL,
        None,
        "Where each request is also written: a directory (`directory:///…`) or ClickHouse (`clickhouse://…`).",
    ),
    Setting("idempotency.keep", duration(1, 3600), "1h", "How long an answer is kept and its key remembered."),
    Setting("idempotency.max_answer", size(0, 64 << 20), "1MiB", "The largest answer that is kept."),
    Setting("mail.host", kinds.HOST, None, "The SMTP server. None: mail waits in the outbox."),
    Setting("mail.port", whole(1, 65535), 587, "Its port."),
    Setting(
        "mail.security",
        choice("starttls", "tls", "none"),
        "starttls",
        "How the connection is encrypted: after it began (usual for port 587), from its first byte (465), or never.",
    ),
    Setting("mail.username", text('such as "mailer"'), None, "The user to log in as. None: no log-in."),
    Setting("mail.password", kinds.SECRET, None, "The password to log in with."),
    Setting(
        "mail.from",
        text('such as "Example <no-reply@example.com>"'),
        None,
        "Who mail comes from. Required with a host.",
    ),
    Setting(
        "login.NAME.label", text('such as "Google"', most=40), None, "Its name on the button. Required.", required=True
    ),
    Setting(
        "login.NAME.kind",
        choice("oidc", "github"),
        "oidc",
        "What it speaks: OpenID Connect, or what GitHub does (an OAuth App, also of GitHub Enterprise).",
    ),
    Setting(
        "login.NAME.issuer",
        kinds.BASE_URL,
        None,
        'Its issuer: `"https://accounts.google.com"`, `"https://github.com"`. Required.',
        required=True,
    ),
    Setting(
        "login.NAME.client_id",
        text('such as "1234.apps.example.com"'),
        None,
        "The client id it gave you. Required.",
        required=True,
    ),
    Setting("login.NAME.client_secret", kinds.SECRET, None, "The client secret it gave you. Required.", required=True),
    Setting("server.head_timeout", duration(0.1, 300), "10s", "How long the head of a request may take to arrive."),
    Setting("server.body_timeout", duration(0.1, 3600), "60s", "How long the body of a request may take to arrive."),
    Setting("server.keep_alive", duration(0.1, 3600), "75s", "How long an idle connection stays open."),
    Setting("server.stall", duration(0.1, 3600), "60s", "How long a caller may go without reading any of its answer."),
    Setting("server.drain", duration(0, 3600), "120s", "How long running requests may continue when the server stops."),
    Setting(
        "server.drain_pause",
        duration(0, 600),
        "0s",
        "How long connections are still accepted when the server stops: until a load balancer has noticed by `/ready`.",
    ),
    Setting(
        "server.drain_idle",
        duration(0, 600),
        "2s",
        "How long idle connections may still bring a request after that. It is answered, and the connection closed.",
    ),
    Setting("server.max_body", size(1 << 10, 64 << 20), "10MiB", "The largest body of a request."),
    Setting(
        "server.max_bodies",
        size(1 << 20, 1 << 40),
        "512MiB",
        "The most that the bodies of running calls take, of those above 256 KiB. Further ones wait; after 10 s, 503.",
    ),
    Setting(
        "server.max_connections",
        whole(0, MANY),
        0,
        "How many connections may be open; 0: somewhat less than half of the files that the process may open.",
    ),
    Setting(
        "server.max_connections_per_client",
        whole(0, MANY),
        200,
        "How many of them may come from one IPv4 address or IPv6 /64; 0: no such limit.",
    ),
    Setting(
        "server.exempt_clients",
        kinds.ADDRESSES,
        ["127.0.0.1", "::1"],
        "Addresses without that limit: your reverse proxy.",
    ),
    Setting(
        "server.trusted_proxies",
        kinds.NETWORKS,
        [],
        "Reverse proxies, and networks of them, whose `X-Forwarded-For` says who asks. No other is believed.",
    ),
    Setting("fetch.allow", kinds.FLAG, False, "Fetch what URLs in messages point to where the provider takes no URLs."),
    Setting("fetch.max_bytes", size(1 << 10, 64 << 20), "10MiB", "The most that all URLs of a request may point to."),
    Setting("fetch.timeout", duration(0.1, 300), "10s", "How long fetching one URL may take, redirects included."),
    Setting("fetch.hosts", kinds.TEXTS, [], "Fetch from these hosts only. None: from any of the public internet."),
    Setting(
        "providers.NAME.dialect",
        choice("openai_chat", "anthropic", "gemini"),
        "openai_chat",
        "The protocol that it speaks.",
    ),
    Setting(
        "providers.NAME.base_url",
        kinds.BASE_URL,
        None,
        "Where it is, with the version: `https://host/v1`. A shipped provider has one.",
        required=True,
    ),
    Setting(
        "providers.NAME.auth",
        choice("bearer", "api-key", "x-api-key", "x-goog-api-key", "google-service-account", "none"),
        "bearer",
        "How it takes the key. With `google-service-account` the key is a service account's, as JSON in a file.",
    ),
    Setting(
        "providers.NAME.api_key", kinds.SECRET, None, "Its key: `env:NAME`, `file:PATH` or, with a warning, the key."
    ),
    Setting("providers.NAME.headers", kinds.HEADERS, {}, "Further headers of each call; values as of `api_key`."),
    Setting("providers.NAME.renames", kinds.TEXT_BY_NAME, {}, "Fields of a request that it has other names for."),
    Setting("providers.NAME.drops", kinds.TEXTS, [], "Fields of a request that it refuses and that may be left out."),
    Setting(
        "providers.NAME.paths",
        kinds.TEXT_BY_NAME,
        {},
        "Paths below `base_url` that differ from the usual ones, by endpoint (`chat`, `stream`, `completions`, "
        "`embeddings`, `messages`); `{model}` stands for its name of the model.",
    ),
    Setting("providers.NAME.adds", kinds.JSON_BY_NAME, {}, "Fields that every request to it gets, values in JSON."),
    Setting("providers.NAME.region", kinds.PLACE, None, "What `{region}` in `base_url` and `paths` stands for."),
    Setting("providers.NAME.project", kinds.PLACE, None, "What `{project}` stands for (Google Cloud)."),
    Setting("providers.NAME.resource", kinds.PLACE, None, "What `{resource}` stands for (Azure)."),
    Setting("providers.NAME.api_version", kinds.PLACE, None, "What `{api_version}` stands for (Azure)."),
    Setting("providers.NAME.stream_usage", kinds.FLAG, True, "Whether it takes `stream_options.include_usage`."),
    Setting(
        "providers.NAME.cancel_stops_billing",
        kinds.FLAG,
        False,
        "Whether it stops billing when a call is cut off. If not, a call whose caller left is read to its end.",
    ),
    Setting("providers.NAME.connect_timeout", duration(0.01, 300), "5s", "How long connecting may take."),
    Setting("providers.NAME.timeout", duration(0.01, 3600), "120s", "How long the first byte of an answer may take."),
    Setting("providers.NAME.gap_timeout", duration(0.01, 3600), "60s", "How long it may be silent within an answer."),
    Setting("providers.NAME.total_timeout", duration(0.01, 86400), "900s", "How long a call may take as a whole."),
    Setting("providers.NAME.max_connections", whole(1, 100_000), 256, "How many calls may run at once."),
    Setting(
        "models[].id",
        text('letters, digits and . _ : / @ + - alone, such as "my-model"', r"[A-Za-z0-9][A-Za-z0-9._:/@+-]*", 128),
        None,
        "Its public name. Required.",
        required=True,
    ),
    Setting("models[].aliases", kinds.TEXTS, None, "Other names of it. The id of a model goes before an alias."),
    Setting("models[].type", choice(*TYPES), "chat", "What it does."),
    Setting("models[].context_window", whole(1, MANY), 8192, "How many tokens it takes, prompt and answer together."),
    Setting("models[].output_limit", whole(1, MANY), None, "How many tokens it writes. By default `context_window`."),
    Setting("models[].best_for", text('such as "long documents"'), None, "What customers are told about it."),
    Setting("models[].owned_by", text('such as "deepseek"', most=60), None, "Whose it is. By default its provider's."),
    Setting("models[].input_modalities", some(*MODALITIES), ["text"], "What it reads."),
    Setting("models[].output_modalities", some(*MODALITIES), ["text"], "What it writes."),
    Setting("models[].capabilities", some(*CAPABILITIES), None, "What else it can do, shown to customers."),
    Setting(
        "models[].price",
        kinds.PRICES,
        None,
        "What customers pay before the markup, in USD per million tokens: `input`, `output`, `cache_read`, "
        "`cache_write`, `cache_write_1h`, `audio_input`, `audio_output`, `image_output`; and per thousand `searches`. "
        "A kind of input left out costs what `input` costs, a kind of output what `output` costs, a search nothing. "
        "`tiers` and `periods` change it with the length of a prompt and with time: see docs/catalog.md.",
    ),
    Setting("models[].cost", kinds.PRICES, None, "What the provider bills, for your books. By default the price."),
    Setting(
        "models[].routes[].provider",
        text('such as "deepseek"', most=60),
        None,
        "A name from `providers`. Required.",
        required=True,
    ),
    Setting(
        "models[].routes[].model",
        text('such as "deepseek-chat"', most=200),
        None,
        "Its name at that provider. Required.",
        required=True,
    ),
    Setting("models[].routes[].price", kinds.PRICES, None, "As of the model, for this route."),
    Setting("models[].routes[].cost", kinds.PRICES, None, "As of the model, for this route."),
    Setting(
        "models[].routes[].order",
        whole(0, 1000),
        None,
        "Routes of the same order share the calls; the next order is tried when they fail. By default as written.",
    ),
    Setting("models[].routes[].weight", whole(0, MANY), 1, "Its share of the calls among routes of the same order."),
    Setting("plans.NAME.title", text('such as "Pro"', most=60), None, "Its name on pages. By default NAME."),
    Setting("plans.NAME.description", text('such as "For teams"', most=300), None, "What pages say of it."),
    Setting("plans.NAME.price_usd", kinds.USD, None, "What it costs a month, paid by card. None: pages show no price."),
    Setting("plans.NAME.rpm", whole(1, MANY), None, "Requests per minute. None: no limit, as with the next two."),
    Setting("plans.NAME.tpm", whole(1, MANY), None, "Tokens per minute."),
    Setting("plans.NAME.concurrency", whole(1, MANY), None, "Calls at once."),
    Setting("plans.NAME.strict", kinds.FLAG, False, "Never more than the limits in any 60 seconds, bursts included."),
    Setting("plans.NAME.models", kinds.TEXTS, ["*"], "Patterns of the models that may be called."),
    Setting(
        "plans.NAME.included_tokens",
        whole(0, 1000 * MANY),
        0,
        "Tokens that cost nothing, each calendar month (UTC). They are used before credit.",
    ),
    Setting(
        "plans.NAME.included_credit_usd",
        kinds.USD,
        "0",
        "Once in each calendar month (UTC) promotional credit is filled up to this.",
    ),
    Setting(
        "plans.NAME.markup_percent",
        kinds.PERCENT,
        None,
        "The markup on prices, instead of `billing.markup_percent`.",
    ),
    Setting(
        "plans.NAME.cost_cap_usd",
        kinds.USD,
        None,
        "The most one request may cost, if that is less than `billing.cost_cap_usd`.",
    ),
    Setting("plans.NAME.from", kinds.DATE, None, "The day (UTC) on which it begins. Before it: the plan `default`."),
    Setting("plans.NAME.until", kinds.DATE, None, "The day from which it no longer applies."),
    Setting(
        "plans.NAME.shadow",
        kinds.FLAG,
        False,
        "Try limits out: the log names the requests that `rpm`, `tpm` and `concurrency` would refuse, and none is.",
    ),
    Setting("plans.NAME.listed", kinds.FLAG, True, "Whether pages offer it."),
    Setting(
        "plans.NAME.by_agreement",
        kinds.FLAG,
        False,
        "Pages say that limits it leaves open are agreed with each customer.",
    ),
)
