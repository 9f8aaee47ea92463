"""What the configuration says, where it comes from, and what an operator is told about a mistake."""

import json
import re
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tollbridge.config import Settings, Source, read
from tollbridge.core.catalog import PriceRow
from tollbridge.errors import ConfigError

CANARY = "canary-5f0c2b7e91d84a36b1c7"

MODEL = '[[models]]\nid = "m"\nprice = { input = "1", output = "2" }\n'
BOX = '[providers.mybox]\nbase_url = "http://10.0.0.5:8080/v1"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tollbridge.toml"


def load(file: Path, text: str, environ: Mapping[str, str] | None = None, **options: Any) -> Settings:
    file.write_text(text)
    return read(Source(file, tuple(options.items())), environ or {})


def complaint(file: Path, text: str, environ: Mapping[str, str] | None = None, **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(file, text, environ, **options)
    return str(caught.value).replace(str(file), "FILE")


def key_of(settings: Settings, provider: str) -> str:
    key = settings.providers[provider].api_key
    assert key is not None
    return key.reveal()


def entry(settings: Settings, name: str) -> tuple[str, str]:
    return next((each.shown, Path(each.origin).name) for each in settings.entries if each.name == name)


def test_without_any_file_everything_has_its_default() -> None:
    settings = read(Source(), {})
    assert settings.public_url is None
    assert settings.database_url.reveal() == "sqlite:///data/tollbridge.db"
    assert settings.billing.cost_cap == 5_000_000_000
    assert settings.billing.markup_ppm == 1_000_000
    assert settings.server.max_body == 10 << 20
    assert (settings.providers, settings.models, list(settings.plans)) == (
        {},
        (),
        ["free", "pro", "custom", "default"],
    )
    assert {each.origin for each in settings.entries} == {"default", "shipped"}


def test_a_whole_file_is_read(file: Path) -> None:
    settings = load(
        file,
        """
        public_url = "https://api.example.com/"
        data_dir = "/srv/tollbridge"
        [brand]
        name = "Müller & Söhne"
        key_prefix = "mb-"
        [billing]
        cost_cap_usd = "0.000000001"
        markup_percent = "7.5"
        charge_on_upstream_error = "partial"
        [server]
        max_body = "512KiB"
        head_timeout = "1.5s"
        [providers.deepseek]
        api_key = "env:KEY"
        [providers.mybox]
        base_url = "http://10.0.0.5:8080/v1/"
        timeout = "500ms"
        headers = { X-Team = "env:KEY", X-Other = "plain" }
        renames = { max_tokens = "max_completion_tokens" }
        drops = ["user"]
        [[models]]
        id = "my-model"
        context_window = 128000
        best_for = "…"
        price = { input = "0.50", output = "1.50", cache_read = "0.05" }
        routes = [{ provider = "mybox", model = "qwen3" }, { provider = "deepseek", model = "chat", weight = 3 }]
        [[models]]
        id = "vectors/small"
        type = "embedding"
        price = { input = "0.02" }
        routes = [{ provider = "mybox", model = "e5" }]
        [plans.free]
        rpm = 20
        strict = true
        models = ["my-*"]
        """,
        {"KEY": CANARY},
    )
    assert settings.public_url == "https://api.example.com"
    assert settings.database_url.reveal() == "sqlite:////srv/tollbridge/tollbridge.db"
    assert settings.brand.name == "Müller & Söhne"
    assert (settings.billing.cost_cap, settings.billing.markup_ppm) == (1, 1_075_000)
    assert (settings.server.max_body, settings.server.head_timeout) == (512 << 10, 1.5)
    deepseek, mybox = settings.providers["deepseek"], settings.providers["mybox"]
    assert (deepseek.base_url, key_of(settings, "deepseek")) == ("https://api.deepseek.com/v1", CANARY)
    assert deepseek.cancel_stops_billing
    assert (mybox.base_url, mybox.first_byte_timeout) == ("http://10.0.0.5:8080/v1", 0.5)
    assert mybox.headers["X-Team"].reveal() == CANARY
    first, second = settings.models
    assert first.price == PriceRow(input="0.50", output="1.50", cache_read="0.05")
    assert [(route.provider, route.model, route.weight) for route in first.routes] == [
        ("mybox", "qwen3", 1),
        ("deepseek", "chat", 3),
    ]
    assert (second.id, second.type) == ("vectors/small", "embedding")
    assert settings.plans["free"].name == "free"
    assert (settings.plans["free"].rpm, settings.plans["free"].models) == (20, ("my-*",))
    assert settings.warnings == ()


# --- mistakes -----------------------------------------------------------------------------------------------------

MISTAKES = [
    # the file itself
    ("a = ", 1, "this is not TOML"),
    ("\n\nport = 8000\nport = 8001\n", 4, "this name has a value already: write it once"),
    (BOX + BOX, 3, "providers.mybox is there twice: put all of its settings under one [providers.mybox]"),
    ("[keys]\n[billing]\n[keys]\n", 3, "keys is there twice"),
    ('public_url = "https://a.b\n', 1, "this is not TOML"),
    ("port = [\n1,\n", 3, "this is not TOML"),
    # names
    ("\nprot = 8000\n", 2, "unknown setting prot; did you mean port?"),
    ("[biling]\n", 1, "unknown setting biling; did you mean billing?"),
    ('[billing]\n\ncost_cap = "5"\n', 3, "unknown setting billing.cost_cap; did you mean cost_cap_usd?"),
    ("[keys]\nzzzzzzzz = 1\n", 2, "known here: reveal"),
    ("[plans.free]\nrpn = 20\n", 2, "did you mean rpm?"),
    (BOX + 'base_ur = "x"\n', 3, "did you mean base_url?"),
    (MODEL + "context = 1\n", 4, "did you mean context_window?"),
    ('[providers."My Box"]\nbase_url = "https://a.b"\n', 1, "a name has small letters"),
    ("cors = '*'\ndebug = true\n", 1, "unknown setting cors"),
    ("debug = true\n", 1, "unknown setting debug"),
    # shapes
    ("brand = 3\n", 1, "expected a table: write [brand]"),
    ("providers = 3\n", 1, "expected tables: write [providers.NAME]"),
    ("[providers]\nmybox = 3\n", 2, "expected a table: write [providers.mybox]"),
    ("models = 3\n", 1, "expected a list: write [[models]]"),
    ("[models]\nid = 'm'\n", 1, "expected a list: write [[models]]"),
    (MODEL + "routes = [3]\n", 4, "models[0].routes[0]: expected a table"),
    # numbers and texts
    ('port = "8000"\n', 1, "expected a whole number from 0 to 65535, without quotes"),
    ("port = 65536\n", 1, "expected a whole number from 0 to 65535"),
    ("port = true\n", 1, "expected a whole number"),
    ("port = 80.5\n", 1, "expected a whole number"),
    ("data_dir = 5\n", 1, "expected a text in quotes"),
    ("host = 'a b'\n", 1, "expected an address"),
    ("[billing]\nstrict_holds = 1\n", 2, "expected true or false, without quotes"),
    ("[billing]\ncharge_on_upstream_error = 'parcial'\n", 2, 'one of "none", "partial"; did you mean partial?'),
    ("[server]\nhead_timeout = 10\n", 2, 'such as "500ms", "30s" or "2m"'),
    ("[server]\nhead_timeout = '10 days'\n", 2, "expected a duration"),
    ("[server]\nmax_body = '10MB'\n", 2, 'such as "512KiB" or "10MiB"'),
    ("[server]\nmax_body = '65MiB'\n", 2, "expected a size"),
    ("[server]\nexempt_clients = ['proxy']\n", 2, "expected a list of addresses"),
    ("[brand]\nkey_prefix = 'tb live'\n", 2, "the last - or _"),
    ("[brand]\nheader_prefix = 'X:Y'\n", 2, "letters, digits and -"),
    ('[brand]\nname = "a\\nb"\n', 2, "expected a text of 1 to 60 characters"),
    # money
    ("[billing]\ncost_cap_usd = 5.0\n", 2, "expected a text in quotes, an amount in USD"),
    ("[billing]\ncost_cap_usd = '-5'\n", 2, "a plain decimal"),
    ("[billing]\ncost_cap_usd = '1e3'\n", 2, "a plain decimal"),
    ("[billing]\ncost_cap_usd = '0.0000000001'\n", 2, "at most 9 decimal places"),
    ("[billing]\nmarkup_percent = '-1'\n", 2, "expected a percentage"),
    ("[billing]\nmarkup_percent = '1001'\n", 2, "expected a percentage"),
    ("[[models]]\nid = 'm'\n[models.price]\ninput = 1\n", 4, "models[0].price.input: expected a text in quotes"),
    ("[[models]]\nid = 'm'\nprice = { inptu = '1' }\n", 3, "models[0].price.inptu: unknown meter; did you mean input?"),
    ("[[models]]\nid = 'm'\nprice = { output = '1' }\n", 3, "input is missing"),
    (
        "[[models]]\nid = 'm'\nprice = { input = '1', output = 'free' }\n",
        3,
        "price.output: a price in USD per million tokens",
    ),
    # addresses
    ("public_url = 'example.com'\n", 1, "expected a URL with http:// or https://"),
    ("public_url = 'http://api.example.com'\n", 1, "https:// is needed here"),
    ("public_url = 'https://u:p@example.com'\n", 1, "no user and no password"),
    ("public_url = 'https://example.com/gateway'\n", 1, "leave the path out"),
    ("public_url = 'https://example.com:port'\n", 1, "expected a URL"),
    ("database_url = 'mysql://a/b'\n", 1, "postgresql://user:password@host/name"),
    ("database_url = 'sqlite://'\n", 1, "sqlite:///path"),
    ("database_url = 'sqlite:///:memory:'\n", 1, "sqlite:///path"),
    ("[providers.x]\nbase_url = 'http://api.example.com/v1'\n", 2, "your key can be read on its way"),
    ("[providers.x]\nbase_url = 'http://8.8.8.8/v1'\n", 2, "https:// is needed here"),
    ("[providers.x]\nbase_url = 'https://a.b/v1/chat/completions/'\n", 2, "leave /chat/completions out"),
    ("[providers.x]\nbase_url = 'https://a.b/v1/messages'\n", 2, "leave /messages out"),
    ("[providers.x]\nbase_url = 'http://169.254.169.254/v1'\n", 2, "metadata service"),
    ("[providers.x]\nbase_url = 'http://[::ffff:169.254.169.254]/v1'\n", 2, "metadata service"),
    ("[providers.x]\nbase_url = 'http://[fd00:ec2::254]/v1'\n", 2, "metadata service"),
    ("[providers.x]\nbase_url = 'http://2852039166/v1'\n", 2, "metadata service"),
    ("[providers.x]\nbase_url = 'http://0xa9.254.0xa9fe/v1'\n", 2, "metadata service"),
    ("[providers.x]\nbase_url = 'http://metadata.google.internal./v1'\n", 2, "metadata service"),
    ("[providers.x]\nbase_url = 'http://134744072/v1'\n", 2, "https:// is needed here"),
    ("[providers.x]\nbase_url = 'http://[::ffff:8.8.8.8]/v1'\n", 2, "https:// is needed here"),
    ("[providers.x]\nbase_url = 'https://key@host/v1'\n", 2, "no user and no password"),
    ("[providers.x]\nbase_url = 'https://host/v1?key=1'\n", 2, "may contain no ?"),
    # providers and models
    ("[providers.deepsek]\ntimeout = '9s'\n", 1, "did you mean deepseek?"),
    ("\n[providers.deepseek]\n", 2, 'write api_key = "env:DEEPSEEK_API_KEY", or set DEEPSEEK_API_KEY'),
    (BOX + "dialect = 'openai'\n", 3, 'expected one of "openai_chat"'),
    (BOX + "auth = 'baerer'\n", 3, "did you mean bearer?"),
    (BOX + "headers = { Host = 'x' }\n", 3, "headers.Host: the gateway sets this header itself"),
    (BOX + "headers = { 'a b' = 'x' }\n", 3, "this is not a valid name of a header"),
    (BOX + 'headers = { X-A = "a\\r\\nX-B: c" }\n', 3, "in one line"),
    (BOX + "drops = 'user'\n", 3, "expected a list of texts"),
    (BOX + "renames = { a = 1 }\n", 3, "expected a table of texts"),
    ("[[models]]\ntype = 'chat'\n", 1, 'models[0].id: it is missing: write id = "my-model"'),
    ("[[models]]\nid = 'a b'\n", 2, "expected a text"),
    ("[[models]]\nid = 'm'\ntype = 'chatt'\n", 3, "did you mean chat?"),
    (MODEL, 1, "models[0].routes: write routes ="),
    (BOX + MODEL + "routes = [\n{ provider = 'mybox' },\n]\n", 7, "models[0].routes[0].model: it is missing"),
    (BOX + MODEL + "routes = [{ provider = 'myboks', model = 'x' }]\n", 6, "did you mean mybox?"),
    (BOX + "[[models]]\nid = 'm'\nroutes = [{ provider = 'mybox', model = 'x' }]\n", 5, "no price"),
    (
        BOX + MODEL.replace(', output = "2"', "") + "routes = [{ provider = 'mybox', model = 'x' }]\n",
        5,
        "output is missing",
    ),
    (BOX + (MODEL + "routes = [{ provider = 'mybox', model = 'x' }]\n") * 2, 8, "m is there twice"),
    (
        BOX + MODEL + "output_limit = 9000\nroutes = [{ provider = 'mybox', model = 'x' }]\n",
        6,
        "above the context_window",
    ),
    ('[billing]\nsignup_plan = "fre"\n', 2, "billing.signup_plan: there is no plan fre; did you mean free?"),
    ('[billing]\ncustomer_plans = ["fre"]\n', 2, "billing.customer_plans: there is no plan fre; did you mean free?"),
    ('[plans.x]\nfrom = "2027-02-01"\nuntil = "2027-01-01"\n', 3, "the plan would never be in effect"),
    # what would be read otherwise than it was meant, or end the start without a line
    ('redis_url = "redis://h:6379/one"\n', 1, 'expected "redis://:password@host:6379/0"'),
    ('redis_url = "redis://h:port/0"\n', 1, 'expected "redis://:password@host:6379/0"'),
    ('redis_url = "redis://:se/cret@h:6379/0"\n', 1, "of a password are written %2F"),
    ('redis_url = "redis://me:se#c@h:6379/0"\n', 1, "of a password are written %2F"),
    # secrets
    ("[providers.deepseek]\napi_key = 'env:NOT_SET'\n", 2, "the environment variable 'NOT_SET' is not set"),
    ("[providers.deepseek]\napi_key = 'file:/does/not/exist'\n", 2, "cannot be read: No such file or directory"),
    ("[providers.deepseek]\napi_key = ''\n", 2, "1 to 4,096 printable"),
    ("[providers.deepseek]\napi_key = 'a b'\n", 2, "without spaces"),
    ("secret = 'changeme'\n", 1, "at least 32 random characters"),
    ("secret = 'change-me-0123456789-abcdefghijkl'\n", 1, "at least 32 random characters"),
    ("secret = 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'\n", 1, "at least 32 random characters"),
]


@pytest.mark.parametrize(("text", "line", "says"), MISTAKES)
def test_a_mistake_names_its_line_and_what_would_be_right(file: Path, text: str, line: int, says: str) -> None:
    found = complaint(file, text)
    assert found.startswith(f"FILE:{line}: "), found
    assert says in found
    assert "\n" not in found


@pytest.mark.parametrize(
    "url",
    [
        *("redis://h", "redis://h/", "redis://h:6379/15", "rediss://me:p%2Fq@h:6380/0?ssl_cert_reqs=none"),
        *("redis://[::1]:6379/0", "redis://:p@[fe80::1]"),
    ],
)
def test_addresses_of_redis(file: Path, url: str) -> None:
    redis = load(file, f'redis_url = "{url}"\n').redis_url
    assert redis is not None
    assert redis.reveal() == url


def test_a_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read: No such file"):
        read(Source(tmp_path / "nowhere.toml"), {})
    (tmp_path / "latin.toml").write_bytes(b'\n[brand]\nname = "M\xfcller"\n')
    with pytest.raises(ConfigError, match=r"latin\.toml:3: the file is not UTF-8"):
        read(Source(tmp_path / "latin.toml"), {})


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    """As editors on Windows begin a file; lines are counted all the same."""
    (tmp_path / "bom.toml").write_bytes(b"\xef\xbb\xbfport = 8123\r\n")
    assert read(Source(tmp_path / "bom.toml"), {}).port == 8123
    (tmp_path / "bom.toml").write_bytes(b'\xef\xbb\xbf\n[brand]\nname = "M\xfcller"\n')
    with pytest.raises(ConfigError, match=r"bom\.toml:3: the file is not UTF-8"):
        read(Source(tmp_path / "bom.toml"), {})


# --- layers -------------------------------------------------------------------------------------------------------


def test_what_is_nearer_wins_and_is_named(file: Path) -> None:
    text = 'port = 1\nhost = "a.local"\ndata_dir = "x"\n'
    settings = load(file, text, {"TOLLBRIDGE_PORT": "2", "TOLLBRIDGE_HOST": "b.local"}, port=3)
    assert (settings.port, settings.host, settings.data_dir) == (3, "b.local", Path("x"))
    assert entry(settings, "port") == ("3", "--port")
    assert entry(settings, "host") == ('"b.local"', "TOLLBRIDGE_HOST")
    assert entry(settings, "data_dir") == ('"x"', "tollbridge.toml:3")
    assert entry(settings, "database_url") == ('"sqlite:///x/tollbridge.db"', "default")


def test_a_mistake_is_named_though_the_command_line_hides_it(file: Path) -> None:
    assert complaint(file, 'port = "eighty"\n', port=3).startswith("FILE:1: port: ")
    assert complaint(file, "", {"TOLLBRIDGE_PORT": "eighty"}, port=3).startswith("TOLLBRIDGE_PORT: ")
    assert complaint(file, 'preset = "none"\n', preset="modelbridge").startswith("FILE:1: preset: ")


def test_every_value_can_come_from_the_environment() -> None:
    settings = read(
        Source(),
        {
            "TOLLBRIDGE_BILLING__COST_CAP_USD": "1.25",
            "TOLLBRIDGE_BILLING__STRICT_HOLDS": "true",
            "TOLLBRIDGE_PROVIDERS__MY_BOX__BASE_URL": "http://box:1/v1",
            "TOLLBRIDGE_PROVIDERS__MY_BOX__DROPS": '["user"]',
            "TOLLBRIDGE_PROVIDERS__DEEPSEEK__API_KEY": CANARY,
            "TOLLBRIDGE_PLANS__FREE__RPM": "20",
            "TOLLBRIDGE_MODELS": '[{ id = "m", price = { input = "1", output = "1" },'
            ' routes = [{ provider = "my_box", model = "x" }] }]',
        },
    )
    assert settings.billing.cost_cap == 1_250_000_000
    assert settings.billing.strict_holds
    assert settings.providers["my_box"].drops == ("user",)
    assert key_of(settings, "deepseek") == CANARY
    assert settings.plans["free"].rpm == 20
    assert settings.models[0].routes[0].provider == "my_box"
    assert settings.warnings == ()


def test_a_variable_reaches_the_name_that_the_file_writes(file: Path) -> None:
    text = '[providers.my-box]\nbase_url = "http://10.0.0.5/v1"\n'
    settings = load(file, text, {"TOLLBRIDGE_PROVIDERS__MY_BOX__TIMEOUT": "9s"})
    assert settings.providers["my-box"].first_byte_timeout == 9
    assert list(settings.providers) == ["my-box"]


@pytest.mark.parametrize(
    ("variable", "text", "says"),
    [
        ("TOLLBRIDGE_PROT", "1", "TOLLBRIDGE_PROT: unknown setting; did you mean TOLLBRIDGE_PORT?"),
        ("TOLLBRIDGE_BRAND__NAME", "J\udcfcrgen", "TOLLBRIDGE_BRAND__NAME: it is not UTF-8 text"),
        ("TOLLBRIDGE_CONFG", "1", "TOLLBRIDGE_CONFG: unknown setting; did you mean TOLLBRIDGE_CONFIG?"),
        ("TOLLBRIDGE_BILING__COST_CAP_USD", "1", "did you mean TOLLBRIDGE_BILLING__COST_CAP_USD?"),
        ("TOLLBRIDGE_MODELS__0__ID", "m", "TOLLBRIDGE_MODELS__0__ID: unknown setting"),
        ("TOLLBRIDGE_PORT", "eighty", "TOLLBRIDGE_PORT: port: expected a whole number"),
        ("TOLLBRIDGE_PORT", "80\nhost = 1", "TOLLBRIDGE_PORT: port: expected a whole number"),
        ("TOLLBRIDGE_BILLING", "x", "TOLLBRIDGE_BILLING: billing: expected a table"),
        ("TOLLBRIDGE_SERVER__MAX_BODY", "1", "TOLLBRIDGE_SERVER__MAX_BODY: server.max_body: expected a size"),
        ("TOLLBRIDGE_PUBLIC_URL", "http://example.com", "TOLLBRIDGE_PUBLIC_URL: public_url: https:// is needed"),
        ("TOLLBRIDGE_SECRET", "short", "TOLLBRIDGE_SECRET: secret: it must be at least 32"),
        (
            "TOLLBRIDGE_PROVIDERS__X__BASE_URL",
            "http://a.com",
            "TOLLBRIDGE_PROVIDERS__X__BASE_URL: providers.x.base_url",
        ),
    ],
)
def test_a_mistake_in_the_environment_names_its_variable(variable: str, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(Source(), {variable: text})
    assert says in str(caught.value)


def test_what_a_cluster_sets_is_no_setting() -> None:
    settings = read(
        Source(),
        {
            "TOLLBRIDGE_PORT": "tcp://10.0.0.1:80",
            "TOLLBRIDGE_SERVICE_HOST": "10.0.0.1",
            "TOLLBRIDGE_SERVICE_PORT": "80",
            "TOLLBRIDGE_SERVICE_PORT_HTTP": "80",
            "TOLLBRIDGE_PORT_80_TCP": "tcp://10.0.0.1:80",
            "TOLLBRIDGE_PORT_80_TCP_ADDR": "10.0.0.1",
            "TOLLBRIDGE_METRICS_SERVICE_HOST": "10.0.0.2",
            "TOLLBRIDGE_CONFIG": "elsewhere.toml",
        },
    )
    assert settings.port == 8000


@pytest.mark.parametrize("variable", ["DEEPSEEK_API_KEY", "OPENAI_API_KEY", "ZAI_API_KEY"])
def test_a_known_credential_in_the_environment_switches_its_provider_on(variable: str) -> None:
    settings = read(Source(), {variable: CANARY})
    (name,) = settings.providers
    assert key_of(settings, name) == CANARY
    assert entry(settings, f"providers.{name}.api_key") == (f'"env:{variable}"', variable)


def test_the_file_overlays_the_shipped_row(file: Path) -> None:
    settings = load(file, '[providers.openai]\nbase_url = "https://eu.api.openai.com/v1"\n', {"OPENAI_API_KEY": CANARY})
    openai = settings.providers["openai"]
    assert openai.base_url == "https://eu.api.openai.com/v1"
    assert openai.renames["max_tokens"] == "max_completion_tokens"
    assert key_of(settings, "openai") == CANARY


def test_a_shipped_server_of_ones_own_needs_no_credential(file: Path) -> None:
    assert load(file, "[providers.ollama]\n").providers["ollama"].base_url == "http://127.0.0.1:11434/v1"


def test_a_route_to_a_provider_without_a_credential_is_left_out_with_a_warning(file: Path) -> None:
    routes = 'routes = [{ provider = "mybox", model = "x" },\n{ provider = "deepseek", model = "y" }]\n'
    settings = load(file, BOX + MODEL + routes)
    (warning,) = settings.warnings
    assert warning.endswith(":7: models[0].routes[1] is left out: provider deepseek has no credential")


def test_a_price_that_looks_as_if_it_were_per_token_is_asked_about(file: Path) -> None:
    price = 'price = {{ input = "{}", output = "{}" }}\n'
    routes = 'routes = [{ provider = "mybox", model = "x" }, { provider = "mybox", model = "y" }]\n'
    model = '[[models]]\nid = "m"\ncontext_window = 9\n'
    settings = load(file, BOX + model + price.format("0.000003", "0.000015") + routes)
    said = "is taken as USD per million tokens: if it is meant per token, multiply it by 1000000"
    assert [each.partition(": ")[2] for each in settings.warnings] == [
        f"models[0].price.{meter} {said}" for meter in ("input", "output")
    ]
    assert re.search(r":\d+: ", settings.warnings[0])
    assert load(file, BOX + model + price.format("0", "0.001") + routes).warnings == ()


def test_plain_http_can_be_accepted(file: Path) -> None:
    text = 'allow_plain_http = true\npublic_url = "http://example.com"\n[providers.x]\nbase_url = "http://a.com"\n'
    assert load(file, text).public_url == "http://example.com"


@pytest.mark.parametrize("url", ["http://localhost:1", "http://127.0.0.1", "http://[::1]:8000", "http://a.localhost"])
def test_plain_http_is_fine_on_this_machine(file: Path, url: str) -> None:
    assert load(file, f'public_url = "{url}"\n').public_url == url


# --- secrets ------------------------------------------------------------------------------------------------------


def test_references_are_followed(file: Path) -> None:
    (file.parent / "key").write_text(f"{CANARY}\n")
    for reference in ("file:key", f"file:{file.parent}/key"):
        settings = load(file, f'[providers.deepseek]\napi_key = "{reference}"\n')
        assert key_of(settings, "deepseek") == CANARY
    settings = load(file, 'database_url = "env:DB"\n', {"DB": "postgresql://me:pw@db/x"})
    assert settings.database_url.reveal() == "postgresql://me:pw@db/x"
    assert entry(settings, "database_url") == ('"env:DB"', "tollbridge.toml:1")


def test_a_secret_written_out_works_and_warns(file: Path) -> None:
    settings = load(file, f'database_url = "postgresql://me:pw@db/x"\n[providers.deepseek]\napi_key = "{CANARY}"\n')
    assert key_of(settings, "deepseek") == CANARY
    assert [warning.partition(": ")[2][:40] for warning in settings.warnings] == [
        "database_url is written out in the file:",
        "providers.deepseek.api_key is written ou",
    ]


SECRET_PLACES = [
    f'secret = "{CANARY}{CANARY}"\n',
    f'database_url = "postgresql://me:{CANARY}@db/x"\n',
    f'database_url = "postgresql://db/x?password={CANARY}"\n',
    f'[providers.deepseek]\napi_key = "{CANARY}"\n',
    f'[providers.mybox]\nbase_url = "https://a.b"\nheaders = {{ authorization = "Basic {CANARY}" }}\n',
]


@pytest.mark.parametrize("text", SECRET_PLACES)
def test_no_secret_is_ever_shown(file: Path, text: str) -> None:
    settings = load(file, text)
    shown = [repr(settings), str(settings), f"{settings}", *map(str, settings.entries), *settings.warnings]
    shown += [repr(each) for provider in settings.providers.values() for each in (provider, provider.api_key)]
    assert not [each for each in shown if CANARY in each]
    with pytest.raises(TypeError):
        msgspec.json.encode(settings.database_url)


@pytest.mark.parametrize(
    "text",
    [
        f'secret = "{CANARY}"\n',
        f'secret = "{CANARY} {CANARY}"\n',
        f'[providers.deepseek]\napi_key = "{CANARY} "\n',
        f'[providers.deepseek]\napi_key = ["{CANARY}"]\n',
        f'database_url = "mysql://me:{CANARY}@db/x"\n',
        f'[providers.mybox]\nbase_url = "https://me:{CANARY}@a.b"\n',
        f'[providers.mybox]\nbase_url = "https://a.b?key={CANARY}"\n',
        f'[providers.mybox]\nbase_url = "https://a.b"\nheaders = {{ x = "{CANARY}\\n" }}\n',
        f'[providers.mybox]\nbase_url = "https://a.b"\nheaders = {{ x = ["{CANARY}"] }}\n',
        f'[providers.deepseek]\napi_key = "{CANARY}"\n[plans.x]\nrpm = 0\n',
        f'[providers.deepseek]\napi_key = "{CANARY}\n',
    ],
)
def test_no_secret_stands_in_a_complaint(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read(Source(file), {})
    assert CANARY not in "".join(traceback.format_exception(caught.value))


# --- places of a provider -----------------------------------------------------------------------------------------

BEDROCK = {"AWS_BEARER_TOKEN_BEDROCK": CANARY}


def test_a_region_of_the_environment_completes_an_address() -> None:
    providers = read(Source(), BEDROCK | {"AWS_DEFAULT_REGION": "eu-central-1"}).providers
    assert {name: row.base_url for name, row in providers.items()} == {
        "bedrock": "https://bedrock-runtime.eu-central-1.amazonaws.com/openai/v1",
        "bedrock-mantle": "https://bedrock-mantle.eu-central-1.api.aws/v1",
        "bedrock-anthropic": "https://bedrock-runtime.eu-central-1.amazonaws.com/anthropic/v1",
    }


def test_a_credential_without_its_region_switches_nothing_on_and_says_so() -> None:
    settings = read(Source(), BEDROCK)
    assert settings.providers == {}
    assert settings.warnings == (
        "AWS_BEARER_TOKEN_BEDROCK is set, but not AWS_REGION or AWS_DEFAULT_REGION: no provider uses it",
    )


def test_a_credential_that_some_provider_uses_is_no_reason_to_warn() -> None:
    settings = read(Source(), {"AZURE_OPENAI_API_KEY": CANARY, "AZURE_RESOURCE_NAME": "mine"})
    assert list(settings.providers) == ["azure"]
    assert settings.warnings == ()


def test_a_provider_that_was_asked_for_misses_its_region(file: Path) -> None:
    with pytest.raises(ConfigError, match=r':1: .*region is missing: write region = "…", or set AWS_REGION'):
        load(file, "[providers.bedrock]\n", BEDROCK)
    settings = load(file, '[providers.bedrock]\nregion = "us-east-2"\n', BEDROCK)
    assert settings.providers["bedrock"].base_url == "https://bedrock-runtime.us-east-2.amazonaws.com/openai/v1"


def test_paths_are_completed_too_but_for_the_model(file: Path) -> None:
    text = '[providers.azure-deployments]\nresource = "mine"\napi_version = "2024-10-21"\n'
    azure = load(file, text, {"AZURE_OPENAI_API_KEY": CANARY}).providers["azure-deployments"]
    assert azure.base_url == "https://mine.openai.azure.com/openai/deployments"
    assert azure.paths["chat"] == "/{model}/chat/completions?api-version=2024-10-21"


@pytest.mark.parametrize("path", ["chat", "/a b", "/{town}", "/{", "http://a"])
def test_a_path_that_is_none_is_told(file: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=r":\d+: .*expected a path"):
        load(file, f'[providers.x]\nbase_url = "https://a.com"\npaths = {{ chat = "{path}" }}\n')


def test_a_path_of_no_endpoint_is_told(file: Path) -> None:
    text = '[providers.x]\nbase_url = "https://a.com"\npaths = { chatt = "/chat" }\n'
    assert complaint(file, text) == "FILE:3: providers.x.paths.chatt: unknown endpoint; did you mean chat?"


@pytest.mark.parametrize("routes", ['"mybox/q"', '["mybox/q"]', '[["mybox", "q"]]'])
def test_routes_that_are_no_tables_are_told_how_to_write_them(file: Path, routes: str) -> None:
    said = complaint(file, f"{BOX}{MODEL}routes = {routes}\n")
    assert said.startswith("FILE:6: models[0].routes")
    assert said.endswith(': write routes = [{ provider = "…", model = "…" }]')


@pytest.mark.parametrize("value", ["[" * 5000 + "]" * 5000, "9" * 5000])
def test_a_file_that_no_parser_gets_through_is_told(file: Path, value: str) -> None:
    assert complaint(file, f"port = {value}\n") == "FILE: this is not TOML that can be read"
    with pytest.raises(ConfigError, match="TOLLBRIDGE_PORT: port: expected a whole number"):
        load(file, "", {"TOLLBRIDGE_PORT": value})


def test_a_name_that_leads_to_two_models_is_warned_of(file: Path) -> None:
    route = 'routes = [{ provider = "mybox", model = "q" }]\n'
    text = BOX + "".join(f'{MODEL.replace(chr(34) + "m", chr(34) + name)}aliases = ["z"]\n{route}' for name in "ab")
    assert load(file, text).warnings == (f"{file}:11: z is an alias of a too: it leads to b alone",)


@pytest.mark.parametrize("place", ["a/b", "a.example.com:8080", "a@b", "", "ä"])
def test_a_place_is_one_name(file: Path, place: str) -> None:
    with pytest.raises(ConfigError, match="expected a text"):
        load(file, f'[providers.azure]\nresource = "{place}"\n', {"AZURE_OPENAI_API_KEY": CANARY})


def test_members_for_every_body_are_json(file: Path) -> None:
    good = load(file, '[providers.x]\nbase_url = "https://a.com"\nadds = { a = \'"v"\', b = "[1]" }\n')
    assert good.providers["x"].adds == {"a": '"v"', "b": "[1]"}
    with pytest.raises(ConfigError, match="expected JSON in quotes"):
        load(file, '[providers.x]\nbase_url = "https://a.com"\nadds = { a = "v" }\n')


def test_a_service_account_s_key_is_a_secret(file: Path) -> None:
    written = '{\n "client_email": "a@b",\n "private_key": "-----BEGIN PRIVATE KEY-----\\nx\\n"\n}\n'
    (file.parent / "key.json").write_text(written)
    settings = load(file, '[providers.vertex]\nproject = "p"\napi_key = "file:key.json"\n')
    assert json.loads(key_of(settings, "vertex")) == json.loads(written)
    assert "BEGIN" not in repr(settings)
    (file.parent / "key.json").write_text("{nonsense")
    with pytest.raises(ConfigError, match="service account's key as downloaded"):
        load(file, '[providers.vertex]\nproject = "p"\napi_key = "file:key.json"\n')


def test_many_workers_need_a_database_and_counters_for_many(file: Path) -> None:
    database, redis = 'database_url = "postgresql://u@127.0.0.1/t"\n', 'redis_url = "redis://127.0.0.1:6379/0"\n'
    assert complaint(file, "workers = 4\n") == (
        "FILE:1: workers: 4 workers need a database for many processes: "
        "set database_url = postgresql://user:password@host/name (and redis_url)"
    )
    assert complaint(file, f"workers = 4\n{database}") == (
        "FILE:1: workers: 4 workers need one place that counts rate limits: set redis_url = redis://host:6379/0"
    )
    assert load(file, f"workers = 4\n{database}{redis}").workers == 4
    assert load(file, "workers = 1\n").workers == 1
