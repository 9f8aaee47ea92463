"""The composition root: `Gateway` puts everything together. Nothing else knows every adapter."""

import asyncio
import gc
import importlib
import logging
import os
import sys
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from tollbridge import __version__, metrics
from tollbridge.config import Settings
from tollbridge.config import read as read_settings
from tollbridge.config.kinds import is_for_this_machine
from tollbridge.core import catalog as catalogs
from tollbridge.core import keys, money
from tollbridge.core.abuse import Abuse
from tollbridge.core.catalog import Catalog
from tollbridge.core.means import Means
from tollbridge.core.words import plural
from tollbridge.edge import demo, webhooks
from tollbridge.edge.bodies import Bodies
from tollbridge.edge.downstream import Downstream
from tollbridge.edge.inference import ENDPOINTS, PROBES, Inference, Vital
from tollbridge.edge.listening import handed_over, listen
from tollbridge.edge.lookups import Lookups
from tollbridge.edge.paths import is_of_the_api
from tollbridge.edge.server import LoopLag, Server, ServerLimits
from tollbridge.edge.webhooks import Webhooks
from tollbridge.edge.workers import Berth
from tollbridge.errors import ConfigError, TollbridgeError
from tollbridge.gateway.admission import Admission
from tollbridge.gateway.callers import Callers
from tollbridge.gateway.holds import Holds
from tollbridge.gateway.large import LargeBodies
from tollbridge.gateway.own import OwnCredential, OwnRoutes
from tollbridge.gateway.policy import Policy
from tollbridge.gateway.recent import Recent
from tollbridge.gateway.relay import Relay
from tollbridge.gateway.replays import Replays
from tollbridge.gateway.router import Router
from tollbridge.gateway.settlement import Settlement
from tollbridge.gateway.streams import LiveStreams, Timing
from tollbridge.jobs import Jobs, of_money, of_plans, of_usage
from tollbridge.limits.memory import MemoryLimiter
from tollbridge.limits.redis import RedisLimiter
from tollbridge.services import byok, first_run, mail, operators, plans, providers, secrets
from tollbridge.services import catalog as offered
from tollbridge.services import keys as known_keys
from tollbridge.services.desk import Desk
from tollbridge.services.passwords import Passwords
from tollbridge.services.payments import Payments, open_payments
from tollbridge.services.secrets import Secrets
from tollbridge.store import prices, processes, schema
from tollbridge.store.db import Database, SqliteDatabase, open_database
from tollbridge.store.ledger import Ledger
from tollbridge.store.ledger.sqlite import SqliteLedger
from tollbridge.store.processes import FileLock, FileLost, Process
from tollbridge.telemetry import RequestLog
from tollbridge.upstream.fetch import Fetcher, FetchLimits
from tollbridge.upstream.health import Health
from tollbridge.upstream.opening import OpenUpstream, open_upstream
from tollbridge.upstream.pool import Pool, tls_context
from tollbridge.values import Upstream

if TYPE_CHECKING:
    from tollbridge.web.app import Web

log = logging.getLogger("tollbridge")

# Settings that a reload cannot change: they take a restart.
FIXED = (
    *("host", "port", "workers", "data_dir", "public_url", "database_url", "redis_url"),
    *("mail", "server", "brand", "usage"),
)

# The garbage collector looks for cycles after this many new containers: requests make almost none.
GC_EVERY = 10_000


class Line(msgspec.Struct, frozen=True):
    """All that follows from the configuration; replaced as a whole when that is read again.

    Running requests keep the line that they started on.
    """

    settings: Settings
    upstreams: dict[str, OpenUpstream]
    catalog: Catalog
    callers: Callers
    edge: Inference


class Gateway:
    """A gateway as an ASGI application. Its lifespan starts and stops everything; requests of the API go to `answer`.

    `write_log` takes the lines of answered requests; `announce` takes what the operator should read at the start (None:
    another worker has said it). `on_fatal` is called when no more paid work can be taken before a new process starts.
    """

    def __init__(
        self,
        settings: Settings,
        write_log: Callable[[bytes], object],
        *,
        url: str = "",
        announce: Callable[[str], object] | None = None,
        on_fatal: Callable[[TollbridgeError], object] | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.settings = settings
        self.vital = Vital(LoopLag())
        self.ledger: Ledger | None = None
        self.failure: TollbridgeError | None = None
        self._timing = timing or Timing()
        self._url = url
        self._announce = announce
        self._on_fatal = on_fatal
        self._traffic = metrics.Traffic()
        self._log = RequestLog(write_log, self._traffic.add)
        self._limiter: MemoryLimiter | RedisLimiter = MemoryLimiter()
        self._health = Health()
        self._recent = Recent()
        self._abuse = Abuse()
        self._lengths = Means()
        self._large = LargeBodies()
        self._bodies = Bodies(settings.server.max_bodies, self._large)
        self._demo: demo.DemoProvider | None = None
        self._database: Database = open_database(settings.database_url.reveal())
        self._process: Process | None = None
        self._jobs: Jobs | None = None
        self._line: Line | None = None
        # Weak: one of a provider that has changed since goes when no request and no connection is on it.
        self._pools: weakref.WeakSet[Pool] = weakref.WeakSet()
        self._reloading: asyncio.Task[None] | None = None
        self._following: set[asyncio.Task[None]] = set()
        self._web: Web | None = None
        self._desk: Desk | None = None
        # The last one is in use; the one before finishes what runs on it.
        self._tills: list[Payments] = []
        self._webhooks = Webhooks(lambda signature, body: self._payments().receive(signature, body))
        self._metrics = metrics.Metrics(
            self._traffic, self._observe, self._metrics_token, public=settings.public_url is not None
        )

    def answer(self, downstream: Downstream) -> Coroutine[Any, Any, None] | None:
        """The coroutine that answers a request of the API; None: it is for `__call__`."""
        path: str = downstream.scope["path"]
        if path in ENDPOINTS or path in PROBES or is_of_the_api(path, ENDPOINTS):
            assert self._line is not None
            return self._line.edge.answer(downstream)
        return None

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        """The lifespan, the processor's webhook, `/metrics` and the pages."""
        if scope["type"] == "lifespan":
            return self._lifespan(receive, send)
        path: str = scope["path"]
        if path == webhooks.PATH:
            return self._webhooks(scope, receive, send)
        if path == metrics.PATH:
            return self._metrics(scope, receive, send)
        return self._call_web(scope, receive, send)

    async def start(self) -> None:
        """Everything that must be true before the first request: schema, secret, books, prices."""
        await schema.migrate(self.settings.database_url.reveal())
        await self._database.start()
        master = await secrets.load_for(self._database, self.settings)
        await secrets.belongs_to(self._database, master)
        self._process, self.ledger = await self._open_ledger()
        if self.settings.redis_url is not None:
            self._limiter = RedisLimiter(self.settings.redis_url.reveal(), f"{self.ledger.epoch}")
            await self._limiter.start()
            if self._limiter.degraded:
                log.warning("redis_url: no server answers; each process applies its share of the limits until one does")
        elif others := await processes.serving(self._database, beside=self.ledger.epoch):
            log.warning("redis_url is not set, and %d more serve from this database: each limits by itself", others)
        self._line = await self._lay_line(self.settings, self.ledger, master)
        post = mail.Post(self._database, master, mail.carrier(self.settings))
        self._desk = Desk(self._database, master, Passwords(), post, self._url, lambda: self.settings)
        self._tills.append(open_payments(self._database, self.settings, self._url, post))
        self._jobs = Jobs(
            self._database,
            self._process,
            self.ledger,
            url=self.settings.database_url.reveal(),
            on_change=self._forget,
            on_fatal=self._give_up,
            prepare=self._open_web,
            more=(
                *of_money(self._payments, self._desk),
                of_plans(self._database, lambda: self.settings.plans),
                *of_usage(self._database, self.settings.usage, master.ids),
            ),
        )
        self._jobs.start()
        post.start()
        self.vital.lag.start()
        if self._announce is not None:
            await self._welcome(self._line, master, self._announce)
        if self.settings.workers > 1:
            await self._metrics.share(self.settings.data_dir / "metrics", self.ledger.epoch)
        # What exists now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()

    async def stop(self) -> None:
        """After the last request: write what is still waiting, then close everything."""
        await self._metrics.close()
        self.vital.lag.stop()
        if self._desk is not None:
            await self._desk.post.stop()
        if self._jobs is not None:
            await self._jobs.stop()
        for following in self._following:
            following.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
        if self._reloading is not None:
            await asyncio.wait((self._reloading,))
        for till in self._tills:
            await till.close()
        if self.ledger is not None:
            await self.ledger.stop()
        if isinstance(self._limiter, RedisLimiter):
            await self._limiter.stop()
        if self._process is not None:
            await self._process.finish()
        for each in tuple(self._pools):
            await each.close()
        if self._demo is not None:
            await self._demo.stop()
        self._log.flush()
        await self._database.close()

    async def _open_web(self) -> "Web":
        """Load the pages, soon after the start or for the first request. In a thread, so that no call waits for it."""
        if self._web is None:
            made = await asyncio.to_thread(self._make_web)
            self._web = self._web or made
        return self._web

    def _make_web(self) -> "Web":
        module = importlib.import_module("tollbridge.web.app")
        made: Web = module.Web(
            *(self._desk, self._catalog, self._health, self._call_edge, self._log),
            payments=self._payments,
            limiter=self._limiter,
        )
        return made

    async def _call_web(self, scope: Any, receive: Any, send: Any) -> None:
        await (self._web or await self._open_web())(scope, receive, send)

    async def _call_edge(self, scope: Any, receive: Any, send: Any) -> None:
        assert self._line is not None
        await self._line.edge(scope, receive, send)

    def _observe(self) -> metrics.Observed:
        assert self._line is not None
        assert self.ledger is not None
        return metrics.Observed(
            draining=self.vital.draining or self.vital.leaving,
            given_up=self.vital.given_up,
            lag=self.vital.lag.seconds,
            unheard=self._process.unheard() if self._process is not None else 0.0,
            log=self._log,
            ledger=self.ledger,
            limiter=self._limiter,
            upstreams=self._line.upstreams,
            catalog=self._line.catalog,
            health=self._health,
            database=self._database,
            spool=self.settings.data_dir,
        )

    def _metrics_token(self) -> str | None:
        token = self.settings.metrics_token
        return None if token is None else token.reveal()

    def _payments(self) -> Payments:
        return self._tills[-1]

    def _catalog(self) -> Catalog:
        assert self._line is not None
        return self._line.catalog

    def drain(self) -> None:
        """Take no more paid work; what runs goes on."""
        self.vital.draining = True

    def leave(self) -> None:
        """This process is about to stop: `/ready` says so, but requests that still arrive are served."""
        self.vital.leaving = True

    def _give_up(self, error: TollbridgeError) -> None:
        """Take no more paid work, ever. Who has the only copy of the books stays until somebody has saved them."""
        self.drain()
        self.vital.given_up = True
        if self._on_fatal is not None and not isinstance(error, FileLost):
            self._on_fatal(error)

    def reload(self) -> asyncio.Task[None]:
        """Read the configuration again. If there is a mistake in it, that is logged and the old one stays in force."""
        # After a reload that is running, which may have read the file before its last change.
        self._reloading = asyncio.get_running_loop().create_task(self._reload(self._reloading))
        return self._reloading

    async def _reload(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait((before,))
        assert self.ledger is not None
        assert self._desk is not None
        try:
            settings = read_settings(self.settings.source)
            for name in FIXED:
                if getattr(settings, name) != getattr(self.settings, name):
                    log.warning("%s has changed: restart to apply it", name)
            settings = msgspec.structs.replace(settings, **{name: getattr(self.settings, name) for name in FIXED})
            fresh = await secrets.load_for(self._database, settings)
            await secrets.belongs_to(self._database, fresh)
            self._desk.master.become(fresh)
            self._line = await self._lay_line(settings, self.ledger, self._desk.master)
        except TollbridgeError as error:
            log.error("the configuration was not reloaded: %s", error)  # noqa: TRY400 - the message says it all
            return
        self.settings = settings
        self._health.reconsider()
        self._tills.append(open_payments(self._database, settings, self._url, self._desk.post))
        while len(self._tills) > 2:
            await self._tills.pop(0).close()
        for warning in (*settings.warnings, *offered.unmatched(settings)):
            log.warning("%s", warning)
        log.info("the configuration was reloaded: %s", plural(len(self._line.catalog.models), "model"))

    def _forget(self) -> None:
        if self._line is not None:
            self._line.callers.forget()
        following = asyncio.get_running_loop().create_task(self._follow())
        self._following.add(following)
        following.add_done_callback(self._following.discard)

    async def _follow(self) -> None:
        """Reload if the master secret was rotated."""
        try:
            if self._desk is not None and await secrets.is_behind(self._database, self._desk.master):
                await self.reload()
        except TollbridgeError as error:
            log.warning("cannot tell whether the master secret was rotated: %s", error)

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        try:
            await self.start()
        except TollbridgeError as error:
            from tollbridge.services.doctor import diagnose

            self.failure = diagnose(error, self.settings.database_url.reveal())
            await self.stop()
            await send({"type": "lifespan.startup.failed", "message": ""})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _welcome(self, line: Line, master: Secrets, announce: Callable[[str], object]) -> None:
        """Say where the gateway is served, and on the first start give the operator a key."""
        models = line.catalog.models
        if not models:
            log.warning("no model can be called: none of the providers serves a model of the catalog")
        if demo.NAME in line.upstreams:
            log.warning("no provider is configured: the built-in demo provider answers")
        for warning in (*self.settings.warnings, *offered.unmatched(self.settings)):
            log.warning("%s", warning)
        first = await first_run.begin(self._database, self.settings, master)
        if first is not None:
            example = self.settings.brand.example_model
            chats = (model.id for model in models.values() if model.type != "embedding")
            announce(first_run.welcome(first, self._url, example if example in models else next(chats, "a-model")))
        operators.remember_address(self.settings, self._url)
        if (token := await operators.first_link(self._database)) is not None:
            announce(operators.welcome(self._url, token))
        announce(f"Tollbridge {__version__} serves {plural(len(models), 'model')} on {self._url} (Ctrl+C stops it)")

    async def _open_ledger(self) -> tuple[Process, Ledger]:
        """The ledger, after ending the holds that dead processes left behind."""
        settings, url, database = self.settings, self.settings.database_url.reveal(), self._database
        if isinstance(database, SqliteDatabase):
            lock = FileLock(database.path)
            lock.acquire()
            process = await processes.begin(database, lock)
            ledger: Ledger = SqliteLedger(database.path, process.epoch, database.turn)
        else:
            from tollbridge.store.ledger.postgres import PostgresLedger  # asyncpg would add 60 ms to a start on SQLite

            process = await processes.begin(database)
            ledger = PostgresLedger(url, process.epoch, settings.data_dir)
        await ledger.start()
        await process.recover(ledger)
        return process, ledger

    async def _lay_line(self, settings: Settings, ledger: Ledger, master: Secrets) -> Line:
        upstreams = self._open_upstreams(await self._upstream_values(settings))
        by_markup = await self._read_catalogs(settings, upstreams)
        billing, prefix = settings.billing, settings.brand.key_prefix
        policy = Policy(
            cost_cap=billing.cost_cap,
            default_hold_tokens=billing.default_hold_tokens,
            strict_holds=billing.strict_holds,
            charge_partial=billing.charge_on_upstream_error == "partial",
            free_loss_per_day=billing.free_loss_per_day,
            silence_ms=int(self._timing.silent_provider * 1000),
            upstream_failed_status=settings.errors.upstream_failed,
            no_provider_status=settings.errors.no_available_provider,
        )
        callers = Callers(
            find=partial(known_keys.find, self._database, master),
            own=partial(self._own_credentials, master),
            well_formed=lambda text: keys.well_formed(prefix, text),
            plans=settings.plans,
        )
        own = OwnRoutes(
            billing.byok_fee_ppm - money.PPM,
            lambda routes: prices.register(self._database, [prices.terms_of(route) for route in routes]),
        )
        router = Router(by_markup, policy, self._health, own)
        holds = Holds(ledger, router, policy)
        admission = Admission(
            router=router,
            policy=policy,
            limiter=self._limiter,
            ledger=ledger,
            holds=holds,
            lengths=self._lengths,
            abuse=self._abuse,
            public_id=master.ids().encode,
            fill_up=partial(plans.fill_up, self._database),
        )
        relay = Relay(upstreams, self._health, holds, policy, self._large, _fetcher(settings))
        settlement = Settlement(
            ledger=ledger,
            limiter=self._limiter,
            lengths=self._lengths,
            policy=policy,
            health=self._health,
            recent=self._recent,
            abuse=self._abuse,
        )
        edge = Inference(
            callers=callers,
            admission=admission,
            relay=relay,
            settlement=settlement,
            live=LiveStreams(relay, holds, settlement, billing.default_hold_tokens, self._timing),
            replays=Replays(
                self._database,
                self._recent,
                seal=master.seal,
                unseal=master.open,
                public_id=lambda hold: master.ids().encode("chat", hold),
                keep_ms=int(settings.idempotency.keep * 1000),
                max_answer=settings.idempotency.max_answer,
            ),
            bodies=self._bodies,
            catalogs=by_markup,
            lookups=Lookups(
                database=self._database,
                admission=admission,
                limiter=self._limiter,
                recent=self._recent,
                decode=master.ids().decode,
                parsers=ENDPOINTS,
                dialects={each.value.provider: each.value.dialect for each in upstreams.values()},
            ),
            guesses=self._abuse.guesses,
            ledger=ledger,
            vital=self.vital,
            log=self._log,
            header_prefix=settings.brand.header_prefix,
            trusted_proxies=settings.server.trusted_proxies,
        )
        return Line(settings, upstreams, by_markup[None], callers, edge)

    async def _upstream_values(self, settings: Settings) -> dict[str, Upstream]:
        """What can be called: the configured providers, or the demo provider if there are none."""
        if settings.providers:
            return providers.upstreams(settings)
        if settings.public_url is not None and not is_for_this_machine(settings.public_url, settings.host):
            raise ConfigError(
                "no provider is configured (is its key missing?), and others than you reach this gateway (public_url): "
                "they would be charged for what the built-in demo provider makes up. Set a provider's key, such as "
                "OPENAI_API_KEY"
            )
        if self._demo is None:
            self._demo = demo.DemoProvider()
            await self._demo.start()
        return {demo.NAME: self._demo.upstream}

    def _open_upstreams(self, wanted: Mapping[str, Upstream]) -> dict[str, OpenUpstream]:
        """Open a pool for each; one that has not changed keeps its pool. A pool that is no longer wanted runs dry."""
        known = self._line.upstreams if self._line is not None else {}
        tls = tls_context() if any(each.base_url.startswith("https") for each in wanted.values()) else None
        opened = {}
        for name, each in wanted.items():
            before = known.get(name)
            if before is not None and before.value == each:
                opened[name] = before
                continue
            opened[name] = open_upstream(each, tls)
            self._pools.update(opened[name].pools())
        return opened

    async def _own_credentials(self, master: Secrets, account_id: int) -> list[OwnCredential]:
        opened = await byok.opened(self._database, master, account_id)
        return [OwnCredential(each.id, each.provider, text, each.exclusive) for each, text in opened]

    async def _read_catalogs(
        self, settings: Settings, upstreams: Mapping[str, OpenUpstream]
    ) -> dict[int | None, Catalog]:
        """The catalog by the markup of plans (None: the deployment's), with its price versions in the database."""
        rows = offered.rows(settings)
        if demo.NAME in upstreams:
            rows = catalogs.serve_all_by(rows, demo.NAME)
        callable_now = {name: each.value for name, each in upstreams.items()}
        read: dict[int | None, Catalog] = {}
        for markup in {None, *(plan.markup_ppm for plan in settings.plans.values())}:
            built = catalogs.build(rows, callable_now, settings.billing.markup_ppm if markup is None else markup)
            versions = await prices.register(self._database, [prices.terms_of(route) for route in built.routes()])
            read[markup] = catalogs.with_versions(built, versions)
        return read


def _fetcher(settings: Settings) -> Fetcher | None:
    if not settings.fetch.allow:
        return None
    limits = msgspec.convert(settings.fetch, FetchLimits, from_attributes=True)
    return Fetcher(msgspec.structs.replace(limits, max_held=settings.server.max_bodies))


def _announce(text: str) -> None:
    try:
        print(text, flush=True)  # noqa: T201 - for whoever starts it
    except OSError as error:  # `serve | head`, say
        log.warning("not shown (%s): tollbridge key create and operator link make a key and a link", error.strerror)


def serve(settings: Settings, berth: Berth | None = None) -> int:
    """Serve until told to stop, and return the exit status. `berth`: given when this is a worker."""
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    limits = msgspec.convert(settings.server, ServerLimits, from_attributes=True)
    sock = berth.socket if berth is not None else handed_over() or listen(settings.host, settings.port)
    host, port = sock.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - all addresses: of this machine, one
    url = settings.public_url or f"http://{f'[{host}]' if ':' in host else host}:{port}"

    def end_for_good(error: TollbridgeError) -> None:
        if berth is None:  # no supervisor of ours: the exit status tells another one to start it again
            gateway.failure = error
        server.end()

    gateway = Gateway(
        settings,
        partial(os.write, sys.stderr.fileno()),
        announce=_announce if berth is None or berth.first else None,
        on_fatal=end_for_good,
        url=url,
    )
    server = Server(
        gateway,
        sock,
        limits,
        on_ready=berth.ready if berth is not None else None,
        on_drain=gateway.leave,
        on_reload=gateway.reload,
        lifeline=berth,
    )
    # The caller says, once, why a start failed.
    logging.getLogger("uvicorn.error").addFilter(lambda _: gateway.failure is None)
    gc.set_threshold(GC_EVERY)
    try:
        server.run()
    except SystemExit:
        # uvicorn exits like this when the start failed; `failure` has the reason.
        if gateway.failure is None:
            raise
    if gateway.failure is not None:
        raise gateway.failure
    return 0
