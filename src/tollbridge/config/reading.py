"""From a file, the environment and the command line to one frozen `Settings`.

Rule 1  Later sources win: default, a provider's shipped row, preset, file, environment, command line.
Rule 2  Everything is read once, here; nothing else in the program looks at the environment.
Rule 3  A mistake names its line (or variable, or option) and what would be right. The first one ends the reading.
Rule 4  What is shown of a secret is where it comes from, or `***`.
"""

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path as File
from typing import Any

import msgspec

from tollbridge.config import kinds
from tollbridge.config.kinds import Secret
from tollbridge.config.lines import Path, line_numbers, not_toml
from tollbridge.config.settings import ProviderSettings, Settings
from tollbridge.config.source import Entry, Source
from tollbridge.config.table import GROUPS, PRESETS, SETTINGS, Group, Setting
from tollbridge.core.catalog import ModelRow
from tollbridge.core.plans import DEFAULT_PLAN, Plan
from tollbridge.errors import ConfigError

PREFIX = "TOLLBRIDGE_"
DEFAULT_FILE = File("tollbridge.toml")
SHIPPED_PROVIDERS = File(__file__).parent.parent / "data" / "providers.toml"
SHIPPED_PLANS = File(__file__).parent.parent / "data" / "plans.toml"
SHIPPED_PRESETS = File(__file__).parent.parent / "data" / "presets"
LEAST_SECRET = 32

# Of a provider's shipped row: what is no setting.
_FACTS = frozenset({"env", "source", "places"})
# Says where the file is, so it cannot be set in it.
_NOT_SETTINGS = frozenset({"TOLLBRIDGE_CONFIG"})
# Set by a cluster in every container beside a service of this name.
_CLUSTER = re.compile(
    r"TOLLBRIDGE_(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_[0-9]+_(?:TCP|UDP)(?:_[A-Z]+)?)"
)
# From Stripe's documentation of keys; anything shorter, or repetitive, is a placeholder.
_STRIPE_KEY = re.compile(r"[sr]k_(live|test)_[A-Za-z0-9_]{16,}")
_STRIPE_SIGNING = re.compile(r"whsec_[A-Za-z0-9+/=_-]{24,}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,59}")
_PLACE = re.compile(r"\{(region|project|resource|api_version)\}")
_TOML_LINE = re.compile(r" \(at (?:line ([0-9]+), column [0-9]+|end of document)\)$")

_ROOT = GROUPS[0]
_SETTINGS = {
    group.name: {
        setting.name.rpartition(".")[2]: setting
        for setting in SETTINGS
        if setting.name.rpartition(".")[0] == group.name
    }
    for group in GROUPS
}
_INNER = {group.name: {inner.key: inner for inner in GROUPS[1:] if inner.parent == group.name} for group in GROUPS}


def read(source: Source, environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of `source`, or ConfigError."""
    return _Reader(source, environ).settings()


def read_database_url(text: str, source: Source) -> tuple[Secret, str]:
    """A URL given elsewhere, as `database_url` takes it; and how it may be shown. ConfigError: it is not one."""
    try:
        url = kinds.DATABASE_URL.parse(_followed(text, source, os.environ))
    except kinds.Wrong as error:
        raise ConfigError(str(error)) from None
    return url, text if _is_reference(text) else kinds.without_password(text)


def shown_path(path: Path) -> str:
    """`models[0].routes[1].provider`"""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


class _Reader:
    def __init__(self, source: Source, environ: Mapping[str, str]) -> None:
        self._source = source
        self._environ = environ
        self._document: dict[str, Any] = {}
        self._lines: dict[Path, int] = {}
        # Where a value comes from that is in no file.
        self._elsewhere: dict[Path, str] = {}
        self._entries: list[Entry] = []
        self._warnings: list[str] = []
        self._shipped = tomllib.loads(SHIPPED_PROVIDERS.read_text("utf-8"))

    def settings(self) -> Settings:
        self._read_file()
        self._read_environment()
        for name, value in self._source.options:
            if name in self._document:  # hidden from now on, and yet it must be right
                self._parsed(_SETTINGS[_ROOT.name][name], self._document[name], (name,))
            self._put((name,), value, f"--{name.replace('_', '-')}")
        self._add_preset()
        self._add_places()
        self._add_shipped()
        self._add_plans()
        values = self._group(_ROOT, self._document, ())
        # Without limits unless the operator sets some.
        values["plans"].setdefault(DEFAULT_PLAN, Plan(name=DEFAULT_PLAN))
        settings = Settings(**values, source=self._source, entries=tuple(self._entries), warnings=tuple(self._warnings))
        settings = msgspec.structs.replace(
            settings, providers={name: self._placed(name, row) for name, row in settings.providers.items()}
        )
        self._check_rotation(settings)
        self._check_urls(settings)
        self._check_models(settings)
        self._check_plans(settings)
        self._check_stripe(settings)
        self._check_mail(settings)
        self._check_workers(settings)
        return msgspec.structs.replace(settings, warnings=tuple(self._warnings))

    # --- gathering ------------------------------------------------------------------------------------------------

    def _read_file(self) -> None:
        path = self._source.path
        if path is None:
            return
        try:
            # Some editors begin a file with a byte order mark.
            text = path.read_text("utf-8-sig")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise ConfigError(f"{path}:{line}: the file is not UTF-8 text") from error
        try:
            self._document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            found = _TOML_LINE.search(str(error))
            line = int(found[1]) if found and found[1] else text.count("\n") + 1
            raise ConfigError(f"{path}:{line}: {not_toml(_TOML_LINE.sub('', str(error)))}") from None
        except (RecursionError, ValueError):  # endless nesting, a number of thousands of digits
            raise ConfigError(f"{path}: this is not TOML that can be read") from None
        self._lines = line_numbers(text)

    def _read_environment(self) -> None:
        for variable in sorted(self._environ):
            text = self._environ[variable]
            if not variable.startswith(PREFIX) or variable in _NOT_SETTINGS or _CLUSTER.fullmatch(variable):
                continue
            if variable == "TOLLBRIDGE_PORT" and "://" in text:
                continue  # set by a cluster, again
            if not kinds.is_text(text):
                raise ConfigError(f"{variable}: it is not UTF-8 text")
            self._read_variable(variable, text)

    def _read_variable(self, variable: str, text: str) -> None:
        group, path = _ROOT, Path()
        parts = variable.removeprefix(PREFIX).lower().split("__")
        while parts:
            part = parts.pop(0)
            setting = _SETTINGS[group.name].get(part)
            inner = _INNER[group.name].get(part)
            if setting is not None and not parts:
                self._put((*path, part), text if setting.kind.plain else _value_of(text), variable)
                return
            if inner is None or (parts and inner.listed):
                break
            group, path = inner, (*path, part)
            if parts and inner.named:
                path = (*path, self._existing_name(path, parts.pop(0)))
            if not parts:
                self._put(path, _value_of(text), variable)
                return
        known = [PREFIX + each.name.replace(".", "__").upper() for each in SETTINGS if "[" not in each.name]
        known += _NOT_SETTINGS
        hint = kinds.nearest(variable, known)
        raise ConfigError(f"{variable}: unknown setting" + (f"; {hint}" if "did you" in hint else ""))

    def _existing_name(self, path: Path, part: str) -> str:
        """A variable cannot tell `my-box` from `my_box`: the name in the file decides."""
        there = self._document.get(str(path[-1]))
        names = [*(there if isinstance(there, dict) else ()), *(self._shipped if path == ("providers",) else ())]
        return next((name for name in names if re.sub(r"[^a-z0-9]", "_", name.lower()) == part), part)

    def _put(self, path: Path, value: Any, origin: str) -> None:
        table = self._document
        for step in path[:-1]:
            inner = table.setdefault(str(step), {})
            if not isinstance(inner, dict):
                return  # the mistake in the file is found where it is read
            table = inner
        table[str(path[-1])] = value
        self._elsewhere[path] = origin
        self._lines = {each: line for each, line in self._lines.items() if each[: len(path)] != path}

    def _add_preset(self) -> None:
        """Underneath everything given so far, what the preset says."""
        name = self._document.get("preset")
        if name in PRESETS:
            preset = tomllib.loads((SHIPPED_PRESETS / f"{name}.toml").read_text("utf-8"))
            self._lay_under(_ROOT, preset, (), f"preset {name}")

    def _lay_under(self, group: Group, table: dict[str, Any], path: Path, origin: str) -> None:
        """Each setting of `table` that nobody has set."""
        there: Any = self._document
        for step in path:
            there = there.get(step, {}) if isinstance(there, dict) else None
        if not isinstance(there, dict):
            return  # the mistake in the file is found where it is read
        for key, value in table.items():
            inner = _INNER[group.name].get(key)
            if inner is None:
                if key not in there:
                    self._put((*path, key), value, origin)
            elif inner.named:
                for name, row in value.items():
                    self._lay_under(inner, row, (*path, key, name), origin)
            else:
                self._lay_under(inner, value, (*path, key), origin)

    def _add_places(self) -> None:
        """Paths that follow from other settings."""
        document = self._document
        if "database_url" not in document:
            self._put(("database_url",), f"sqlite:///{document.get('data_dir', 'data')}/tollbridge.db", "default")

    def _add_shipped(self) -> None:
        """Underneath each provider, its shipped row; and providers whose credential is in the environment."""
        providers = self._document.setdefault("providers", {})
        if not isinstance(providers, dict):
            return
        lacking: dict[str, list[str]] = {}  # by credential, for providers that stay off
        used = set()
        for name, row in self._shipped.items():
            ready = self._first_set(row.get("env", ()))
            places = row.get("places", {}).values()
            unknown = next((known for known in places if self._first_set(known) is None), None)
            if name in providers or (ready is not None and unknown is None):
                used.add(ready)
                self._complete(name, row, ready)
            elif ready is not None and unknown is not None:
                lacking[ready] = unknown
        for credential, known in lacking.items():
            if credential not in used:
                self._warnings.append(f"{credential} is set, but not {' or '.join(known)}: no provider uses it")

    def _complete(self, name: str, row: dict[str, Any], ready: str | None) -> None:
        """Add to a provider what its shipped `row` and the environment say; `ready`: the variable with its credential.

        Raises `ConfigError` if it still has no credential.
        """
        path = ("providers", name)
        given = self._document["providers"].setdefault(name, {})
        if not isinstance(given, dict):
            return  # the mistake in the file is found where it is read
        settings = {key: value for key, value in row.items() if key not in _FACTS}
        self._lay_under(_ROOT, {"providers": {name: settings}}, (), "shipped")
        for key, known in row.get("places", {}).items():
            variable = self._first_set(known)
            if key not in given and variable is not None:
                self._put((*path, key), self._environ[variable], variable)
        if "api_key" in given:
            return
        if ready is not None:
            self._put((*path, "api_key"), f"env:{ready}", ready)
        elif variables := row.get("env"):
            raise self._mistake(
                path, f'api_key is missing: write api_key = "env:{variables[0]}", or set {variables[0]}'
            )

    def _first_set(self, variables: Iterable[str]) -> str | None:
        return next((each for each in variables if self._environ.get(each)), None)

    def _add_plans(self) -> None:
        """Underneath each plan, the shipped plan of the same name."""
        self._lay_under(_ROOT, {"plans": tomllib.loads(SHIPPED_PLANS.read_text("utf-8"))}, (), "shipped")

    # --- deciding -------------------------------------------------------------------------------------------------

    def _group(self, group: Group, raw: Any, path: Path) -> dict[str, Any]:
        """The values of one table, by the names of its Struct's fields."""
        if not isinstance(raw, dict):
            if path and isinstance(path[-1], int):
                raise self._mistake(path, f"expected a table: {_not_listed(group)}")
            raise self._mistake(path, f"expected a table: write [{shown_path(path)}] and its settings under it")
        settings, inner = _SETTINGS[group.name], _INNER[group.name]
        for key in raw:
            if key not in settings and key not in inner:
                hint = kinds.nearest(key, [*settings, *inner])
                raise ConfigError(f"{self._origin((*path, key))}: unknown setting {shown_path((*path, key))}; {hint}")
        values = {key: self._setting(setting, raw, (*path, key)) for key, setting in settings.items()}
        for key, each in inner.items():
            values[key] = self._inner(each, raw.get(key), (*path, key))
        names = {field.encode_name: field.name for field in msgspec.structs.fields(group.type)}
        return {names[key]: value for key, value in values.items() if value is not None}

    def _inner(self, group: Group, raw: Any, path: Path) -> Any:
        if group.listed:
            rows = [] if raw is None else raw
            if not isinstance(rows, list):
                raise self._mistake(path, f"expected a list: {_not_listed(group)}")
            return tuple(group.type(**self._group(group, row, (*path, index))) for index, row in enumerate(rows))
        tables = {} if raw is None else raw
        if not group.named:
            return group.type(**self._group(group, tables, path))
        if not isinstance(tables, dict):
            raise self._mistake(path, f"expected tables: write [{group.key}.NAME] and the settings under it")
        made = {}
        for name, row in tables.items():
            if _NAME.fullmatch(name) is None:
                raise self._mistake((*path, name), "a name has small letters, digits, - and _, such as my-box")
            values = self._group(group, row, (*path, name))
            if "name" in group.type.__struct_fields__:
                values["name"] = name
            made[name] = group.type(**values)
        return made

    def _setting(self, setting: Setting, raw: dict[str, Any], path: Path) -> Any:
        value = raw.get(str(path[-1]), setting.default)
        if value is None:
            if setting.required:
                raise self._mistake(path, self._missing(path))
            return None
        parsed = self._parsed(setting, value, path)
        if path in {("secret",), ("secret_previous",)}:
            self._check_secret(path, parsed.reveal())
        origin = self._origin(path) if str(path[-1]) in raw else "default"
        self._entries.append(Entry(shown_path(path), _shown(setting, value), origin))
        if self._is_written_out(setting, path, value):
            self._warnings.append(
                f"{origin}: {shown_path(path)} is written out in the file: env:NAME or file:PATH keeps it elsewhere"
            )
        return parsed

    def _parsed(self, setting: Setting, value: Any, path: Path) -> Any:
        try:
            return setting.kind.parse(self._resolved(value) if setting.kind.secret else value)
        except kinds.Wrong as error:
            raise self._mistake((*path, *error.inside), str(error)) from None

    def _resolved(self, raw: Any) -> Any:
        """The value, with references replaced by what they refer to."""
        if isinstance(raw, dict):
            return {name: self._resolved(value) for name, value in raw.items()}
        return _followed(raw, self._source, self._environ) if isinstance(raw, str) else raw

    def _is_written_out(self, setting: Setting, path: Path, value: Any) -> bool:
        if path not in self._lines or not isinstance(value, str) or _is_reference(value):
            return False
        if setting.kind is kinds.DATABASE_URL:
            return kinds.without_password(value) != value.partition("?")[0]
        return setting.kind is kinds.SECRET

    def _missing(self, path: Path) -> str:
        examples = {"base_url": "https://api.example.com/v1", "id": "my-model", "provider": "deepseek"}
        what = f'it is missing: write {path[-1]} = "{examples.get(str(path[-1]), "…")}"'
        if path[0] == "providers":
            hint = kinds.nearest(str(path[1]), list(self._shipped))
            what += f" ({path[1]} is none of the shipped providers; {hint})"
        return what

    # --- checking -------------------------------------------------------------------------------------------------

    def _check_secret(self, path: tuple[str, ...], secret: str) -> None:
        if (
            len(secret) < LEAST_SECRET
            or len(set(secret)) < 10
            or re.search("change.?me|example|default", secret.lower())
        ):
            raise self._mistake(
                path, f"it must be at least {LEAST_SECRET} random characters: openssl rand -hex 32 makes some"
            )

    def _check_rotation(self, settings: Settings) -> None:
        if settings.secret_previous is None:
            return
        if settings.secret is None:
            raise self._mistake(("secret_previous",), "secret is missing: the file keeps both by itself")
        if settings.secret_previous.reveal() == settings.secret.reveal():
            raise self._mistake(("secret_previous",), "it must be another than secret")

    def _check_urls(self, settings: Settings) -> None:
        if settings.allow_plain_http:
            return
        what = "https:// is needed here: {} (allow_plain_http = true accepts it)"
        public = kinds.split_url(settings.public_url, "") if settings.public_url is not None else None
        if public is not None and public.scheme == "http" and not kinds.is_loopback(public.hostname or ""):
            raise self._mistake(("public_url",), what.format("over http:// API keys can be read on their way"))
        for name, login in settings.login.items():
            issuer = kinds.split_url(login.issuer, "")
            if issuer.scheme == "http" and not kinds.is_loopback(issuer.hostname or ""):
                raise self._mistake(("login", name, "issuer"), what.format("who logs in could be read on its way"))
        for name, provider in settings.providers.items():
            parts = kinds.split_url(provider.base_url, "")
            if parts.scheme == "http" and not kinds.is_private(parts.hostname or ""):
                raise self._mistake(
                    ("providers", name, "base_url"), what.format("over http:// your key can be read on its way")
                )

    def _placed(self, name: str, provider: ProviderSettings) -> ProviderSettings:
        """The provider, with region, project … filled in where its addresses have their names in braces."""

        def fill(text: str) -> str:
            for place in _PLACE.findall(text):
                value = getattr(provider, place)
                if value is None:
                    known = self._shipped.get(name, {}).get("places", {}).get(place, [])
                    what = f'{place} is missing: write {place} = "…"' + (f", or set {known[0]}" if known else "")
                    raise self._mistake(("providers", name), what)
                text = text.replace(f"{{{place}}}", value)
            return text

        base_url = fill(provider.base_url)
        paths = {endpoint: fill(path) for endpoint, path in provider.paths.items()}
        for endpoint, path in paths.items():
            if endpoint not in kinds.ENDPOINTS:
                hint = kinds.nearest(endpoint, kinds.ENDPOINTS)
                raise self._mistake(("providers", name, "paths", endpoint), f"unknown endpoint; {hint}")
            if re.fullmatch(r"/[\x21-\x7e]*", path) is None or set("{}") & set(path.replace("{model}", "")):
                raise self._mistake(
                    ("providers", name, "paths", endpoint), 'expected a path such as "/{model}/chat?api-version=1"'
                )
        return msgspec.structs.replace(provider, base_url=base_url, paths=paths)

    def _check_mail(self, settings: Settings) -> None:
        mail = settings.mail
        if mail.host is None:
            return
        if mail.sender is None:
            raise self._mistake(("mail", "from"), 'write from = "Name <no-reply@example.com>"')
        if settings.public_url is None:
            raise self._mistake(("mail", "host"), "public_url is missing: the links in mails need it")
        if mail.security == "none" and not (settings.allow_plain_http or kinds.is_private(mail.host)):
            raise self._mistake(("mail", "security"), "links that let users in could be read on their way")

    def _check_workers(self, settings: Settings) -> None:
        if settings.workers == 1:
            return
        if settings.database_url.reveal().startswith("sqlite:"):
            what = "need a database for many processes: set database_url = postgresql://user:password@host/name"
            raise self._mistake(("workers",), f"{settings.workers} workers {what} (and redis_url)")
        if settings.redis_url is None:
            what = "need one place that counts rate limits: set redis_url = redis://host:6379/0"
            raise self._mistake(("workers",), f"{settings.workers} workers {what}")

    def _check_stripe(self, settings: Settings) -> None:
        """Refuse half a configuration: a key without the webhook's secret sells what is never credited, or worse."""
        stripe = settings.stripe
        given = {
            "secret_key": (stripe.secret_key, _STRIPE_KEY),
            "webhook_secret": (stripe.webhook_secret, _STRIPE_SIGNING),
            "old_webhook_secret": (stripe.old_webhook_secret, _STRIPE_SIGNING),
        }
        for name, (secret, form) in given.items():
            if secret is not None and (form.fullmatch(secret.reveal()) is None or len(set(secret.reveal())) < 12):
                raise self._mistake(("stripe", name), "that is none of Stripe's: copy it from your Stripe dashboard")
        if (stripe.secret_key is None) != (stripe.webhook_secret is None):
            missing = "secret_key" if stripe.secret_key is None else "webhook_secret"
            raise self._mistake(("stripe",), f"{missing} is missing: both are needed, or none")
        if stripe.old_webhook_secret is not None and stripe.webhook_secret is None:
            raise self._mistake(("stripe", "old_webhook_secret"), "webhook_secret is missing: both keys are needed")
        billing = settings.billing
        if billing.least_top_up > billing.most_top_up:
            raise self._mistake(("billing", "least_top_up_usd"), "it is above most_top_up_usd")
        parts = kinds.split_url(stripe.base_url, "")
        if parts.scheme == "http" and not kinds.is_loopback(parts.hostname or ""):
            raise self._mistake(("stripe", "base_url"), "https:// is needed here: your key could be read on its way")

    def _check_plans(self, settings: Settings) -> None:
        """A plan that is named but does not exist would be offered to nobody, or leave its accounts without limits."""
        billing = settings.billing
        for setting, names in (("signup_plan", (billing.signup_plan,)), ("customer_plans", billing.customer_plans)):
            for name in names:
                if name not in settings.plans:
                    hint = kinds.nearest(name, list(settings.plans))
                    raise self._mistake(("billing", setting), f"there is no plan {name}; {hint}")
        for name, plan in settings.plans.items():
            if plan.since >= plan.until:
                raise self._mistake(("plans", name, "until"), "it is not after from: the plan would never be in effect")

    def _check_models(self, settings: Settings) -> None:
        seen: set[str] = set()
        aliases: dict[str, str] = {}
        for index, model in enumerate(settings.models):
            path: Path = ("models", index)
            if model.id in seen:
                raise self._mistake((*path, "id"), f"{model.id} is there twice: write each model once")
            seen.add(model.id)
            if model.output_limit is not None and model.output_limit > model.context_window:
                raise self._mistake(
                    (*path, "output_limit"), f"it is above the context_window of {model.context_window}"
                )
            for alias in dict.fromkeys(model.aliases or ()):
                if alias in aliases:
                    self._warnings.append(
                        f"{self._origin((*path, 'aliases'))}: {alias} is an alias of {aliases[alias]} too: "
                        f"it leads to {model.id} alone"
                    )
                aliases[alias] = model.id
            if not model.routes:
                raise self._mistake((*path, "routes"), 'write routes = [{ provider = "…", model = "…" }]')
            self._check_routes(settings, model, path)

    def _check_routes(self, settings: Settings, model: ModelRow, path: Path) -> None:
        for number, route in enumerate(model.routes):
            at: Path = (*path, "routes", number)
            price = route.price or model.price
            if price is None:
                raise self._mistake(at, 'no price: write price = { input = "0.50", output = "1.50" } for the model')
            holder: Path = (*(at if route.price else path), "price")
            if model.type != "embedding" and "output" not in self._written(holder):
                raise self._mistake(holder, 'output is missing: write output = "1.50", or "0" for nothing')
            for meter in kinds.per_token(price) if route.price or not number else ():
                at_meter: Path = (*holder, meter)
                self._warnings.append(
                    f"{self._origin(at_meter)}: {shown_path(at_meter)} is taken as USD per million tokens: "
                    "if it is meant per token, multiply it by 1000000"
                )
            if route.provider in settings.providers:
                continue
            if route.provider not in self._shipped:
                hint = kinds.nearest(route.provider, [*settings.providers, *self._shipped])
                raise self._mistake((*at, "provider"), f"there is no provider {route.provider}; {hint}")
            self._warnings.append(
                f"{self._origin(at)}: {shown_path(at)} is left out: provider {route.provider} has no credential"
            )

    def _written(self, path: Path) -> Any:
        value: Any = self._document
        for step in path:
            value = value[step]
        return value

    def _mistake(self, path: Path, message: str) -> ConfigError:
        origin = self._origin(path)
        # An option says which setting it is.
        where = origin if origin.startswith("--") else f"{origin}: {shown_path(path)}"
        return ConfigError(f"{where}: {message}")

    def _origin(self, path: Path) -> str:
        for length in range(len(path), 0, -1):
            if path[:length] in self._elsewhere:
                return self._elsewhere[path[:length]]
            if path[:length] in self._lines:
                return f"{self._source.path}:{self._lines[path[:length]]}"
        return str(self._source.path or "configuration")


def _value_of(text: str) -> Any:
    """A variable's value, written as in a file; else `text` itself, of which its kind will say what is right."""
    try:
        read = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        read = {}
    return read["value"] if len(read) == 1 else text


def _not_listed(group: Group) -> str:
    if group.key == "routes":
        return 'write routes = [{ provider = "…", model = "…" }]'
    return f"write [[{group.key}]] before each of them"


def _followed(raw: str, source: Source, environ: Mapping[str, str]) -> str:
    """What a text that may be a reference refers to."""
    scheme, _, rest = raw.partition(":")
    if scheme == "env":
        value = environ.get(rest, "")
        if not value:
            raise kinds.Wrong(f"the environment variable {rest!r} is not set")
        return value
    if scheme == "file":
        base = source.path.parent if source.path else File()
        try:
            value = (base / rest).read_text("utf-8").strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise kinds.Wrong(f"the file {rest!r} cannot be read: {why}") from None
        if not value:
            raise kinds.Wrong(f"the file {rest!r} is empty")
        return value
    return raw


def _is_reference(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("env:", "file:"))


def _shown(setting: Setting, value: Any) -> str:
    if not setting.kind.secret or _is_reference(value):
        return kinds.toml(value)
    if setting.kind is kinds.DATABASE_URL:
        return kinds.toml(kinds.without_password(str(value)))
    if isinstance(value, dict):
        return kinds.toml({name: each if _is_reference(each) else "***" for name, each in value.items()})
    return kinds.toml("***")
