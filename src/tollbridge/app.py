"""The composition root: `Gateway(settings)` puts everything together; the only place that knows every adapter."""

import logging
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from tollbridge import __version__, values
from tollbridge.config import ProviderSettings, Settings
from tollbridge.core import catalog as catalogs
from tollbridge.core import keys
from tollbridge.core.catalog import Catalog
from tollbridge.edge import demo
from tollbridge.edge.inference import Inference, Vital
from tollbridge.edge.server import LoopLag, Server, ServerLimits, listen
from tollbridge.errors import ConfigError, TollbridgeError
from tollbridge.gateway.admission import Admission, Policy
from tollbridge.gateway.callers import Callers
from tollbridge.gateway.relay import Relay, Upstream
from tollbridge.gateway.settlement import Settlement
from tollbridge.gateway.streams import LiveStreams, Timing
from tollbridge.jobs import Jobs
from tollbridge.limits.memory import MemoryLimiter
from tollbridge.services import first_run, secrets
from tollbridge.services.catalog import shipped_models
from tollbridge.services.secrets import Secrets
from tollbridge.store import keys as key_rows
from tollbridge.store import prices, processes, schema
from tollbridge.store.db import Database, open_database, sqlite_path
from tollbridge.store.ledger import Ledger
from tollbridge.store.ledger.sqlite import SqliteLedger
from tollbridge.store.processes import FileLock, Process
from tollbridge.telemetry import RequestLog
from tollbridge.upstream import auth, pool
from tollbridge.upstream.health import Health

log = logging.getLogger("tollbridge")


class Gateway:
    """A gateway as an ASGI application: its lifespan starts and stops everything, its requests go to the edge."""

    def __init__(
        self,
        settings: Settings,
        write_log: Callable[[bytes], object],
        *,
        url: str = "",
        announce: Callable[[str], object] | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.settings = settings
        self._timing = timing or Timing()
        self._url = url
        self._announce = announce
        self.catalog = Catalog({})
        self.draining = False
        self.ledger: Ledger | None = None
        self.failure: TollbridgeError | None = None
        self._log = RequestLog(write_log)
        self._lag = LoopLag()
        self._demo = None if settings.providers else demo.DemoProvider()
        self._upstreams: dict[str, Upstream] = {}
        self._database: Database = open_database(settings.database_url.reveal())
        self._process: Process | None = None
        self._jobs: Jobs | None = None
        self._edge: Inference | None = None

    @property
    def has_demo(self) -> bool:
        return self._demo is not None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            assert self._edge is not None
            await self._edge(scope, receive, send)

    async def start(self) -> None:
        """Everything that must be true before the first request: schema, secret, books, prices."""
        await schema.migrate(self.settings.database_url.reveal())
        await self._database.start()
        master = secrets.load(self.settings)
        await secrets.belongs_to(self._database, master)
        if self._demo is not None:
            await self._demo.start()
        self._upstreams = self._open_upstreams(self._upstream_values(self.settings))
        self.catalog = await self._read_catalog(self.settings)
        self._process, self.ledger = await self._open_ledger()
        self._edge, callers = self._build_edge(self.ledger, master)
        self._jobs = Jobs(
            self._database, self._process, self.ledger, on_change=callers.forget, on_fatal=lambda _: self.drain()
        )
        self._jobs.start()
        self._lag.start()
        if self._announce is not None:
            await self._welcome(master, self._announce)

    async def stop(self) -> None:
        """After the last request: write what waits, then let go of everything."""
        self._lag.stop()
        if self._jobs is not None:
            await self._jobs.stop()
        if self.ledger is not None:
            await self.ledger.stop()
        if self._process is not None:
            await self._process.finish()
        for upstream in self._upstreams.values():
            await upstream.pool.close()
        if self._demo is not None:
            await self._demo.stop()
        self._log.flush()
        await self._database.close()

    def drain(self) -> None:
        """No more paid work is taken; what runs goes on."""
        self.draining = True

    async def _lifespan(self, receive: Any, send: Any) -> None:
        await receive()
        try:
            await self.start()
        except TollbridgeError as error:
            self.failure = error
            await self.stop()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _welcome(self, master: Secrets, announce: Callable[[str], object]) -> None:
        """Say where this is served, and on the first start give the operator a key."""
        models = self.catalog.models
        if not models:
            log.warning(
                "no model can be called: no configured provider serves any. See `tollbridge catalog list --all`"
            )
        if self._demo is not None:
            log.warning("no provider is configured: the built-in demo provider answers for every model")
        for warning in self.settings.warnings:
            log.warning("%s", warning)
        first = await first_run.begin(self._database, self.settings, master)
        if first is not None:
            chats = (model.id for model in models.values() if model.type != "embedding")
            announce(first_run.welcome(first, self._url, next(chats, "a-model")))
        announce(f"Tollbridge {__version__} serves {len(models)} models on {self._url} (Ctrl+C stops it)")

    async def _open_ledger(self) -> tuple[Process, Ledger]:
        """The books, with what dead processes left behind already ended."""
        settings, url = self.settings, self.settings.database_url.reveal()
        if self._database.dialect == "sqlite":
            lock = FileLock(sqlite_path(url))
            lock.acquire()
            process = await processes.begin(self._database, lock)
            ledger: Ledger = SqliteLedger(sqlite_path(url), process.epoch)
        else:
            from tollbridge.store.ledger.postgres import PostgresLedger  # asyncpg costs a start on SQLite 60 ms

            process = await processes.begin(self._database)
            ledger = PostgresLedger(url, process.epoch, settings.data_dir)
        await ledger.start()
        await process.recover(ledger)
        return process, ledger

    def _build_edge(self, ledger: Ledger, master: Secrets) -> tuple[Inference, Callers]:
        settings, billing, prefix = self.settings, self.settings.billing, self.settings.brand.key_prefix
        policy = Policy(
            cost_cap=billing.cost_cap,
            default_hold_tokens=billing.default_hold_tokens,
            strict_holds=billing.strict_holds,
            charge_partial=billing.charge_on_upstream_error == "partial",
            free_loss_per_day=billing.free_loss_per_day,
            silence_ms=int(self._timing.silent_provider * 1000),
        )
        callers = Callers(
            find=lambda digest: key_rows.find_key(self._database, digest),
            well_formed=lambda text: keys.well_formed(prefix, text),
            digest=master.digest,
            plans=lambda: self.settings.plans,
        )
        limiter, health = MemoryLimiter(), Health()
        admission = Admission(lambda: self.catalog, policy, limiter, ledger, health, master.ids().encode)
        relay = Relay(lambda: self._upstreams, health, admission, ledger)
        settlement = Settlement(ledger, limiter, admission, policy)
        edge = Inference(
            callers=callers,
            admission=admission,
            relay=relay,
            settlement=settlement,
            live=LiveStreams(relay, settlement, billing.default_hold_tokens, self._timing),
            catalog=lambda: self.catalog,
            vital=Vital(lag=lambda: self._lag.lag, draining=lambda: self.draining, ledger_failed=lambda: ledger.failed),
            log=self._log,
            header_prefix=settings.brand.header_prefix,
        )
        return edge, callers

    def _upstream_values(self, settings: Settings) -> dict[str, values.Upstream]:
        if self._demo is not None:
            demonstration = values.Upstream(
                name=demo.NAME,
                provider=demo.NAME,
                dialect="openai_chat",
                base_url=self._demo.base_url,
                auth="none",
                credential="",
                cancel_stops_billing=True,
            )
            return {demo.NAME: demonstration}
        return {name: _upstream(name, row) for name, row in settings.providers.items()}

    def _open_upstreams(self, upstreams: Mapping[str, values.Upstream]) -> dict[str, Upstream]:
        tls = pool.tls_context() if any(each.base_url.startswith("https") for each in upstreams.values()) else None
        return {
            name: Upstream(each, pool.Pool(each.base_url, _limits(each), ssl_context=tls), auth.headers(each))
            for name, each in upstreams.items()
        }

    async def _read_catalog(self, settings: Settings) -> Catalog:
        """The catalog with the price versions that it has in the database."""
        rows = catalogs.overlay(shipped_models(), settings.models)
        if self._demo is not None:
            rows = catalogs.serve_all_by(rows, demo.NAME)
        upstreams = {name: each.value for name, each in self._upstreams.items()}
        built = catalogs.build(rows, upstreams, settings.billing.markup_ppm)
        versions = await prices.register(self._database, [prices.terms_of(route) for route in built.routes()])
        return catalogs.with_versions(built, versions)


def _upstream(name: str, row: ProviderSettings) -> values.Upstream:
    return values.Upstream(
        name=name,
        provider=name,
        dialect=row.dialect,
        base_url=row.base_url,
        auth=row.auth,
        credential=row.api_key.reveal() if row.api_key is not None else "",
        headers=tuple((header, value.reveal()) for header, value in row.headers.items()),
        cancel_stops_billing=row.cancel_stops_billing,
        renames=tuple(row.renames.items()),
        drops=row.drops,
        stream_usage=row.stream_usage,
        connect_timeout=row.connect_timeout,
        first_byte_timeout=row.first_byte_timeout,
        gap_timeout=row.gap_timeout,
        total_timeout=row.total_timeout,
        max_connections=row.max_connections,
    )


def _limits(upstream: values.Upstream) -> pool.Limits:
    return pool.Limits(
        connect=upstream.connect_timeout,
        first_byte=upstream.first_byte_timeout,
        gap=upstream.gap_timeout,
        total=upstream.total_timeout,
        max_connections=upstream.max_connections,
    )


def serve(settings: Settings) -> int:
    """Serve until told to stop; the exit status."""
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    limits = ServerLimits(
        **{
            name: getattr(settings.server, name)
            for name in settings.server.__struct_fields__
            if name != "exempt_clients"
        },
        exempt_clients=frozenset(settings.server.exempt_clients),
    )
    try:
        sock = listen(settings.host, settings.port)
    except OSError as error:
        raise ConfigError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror}") from error
    host, port = sock.getsockname()[:2]
    url = settings.public_url or f"http://{f'[{host}]' if ':' in host else host}:{port}"
    gateway = Gateway(settings, partial(os.write, sys.stderr.fileno()), announce=partial(print, flush=True), url=url)
    try:
        Server(gateway, sock, limits, on_drain=gateway.drain).run()
    except SystemExit:
        # uvicorn ends so when the start failed; why is in `failure`.
        if gateway.failure is None:
            raise
    if gateway.failure is not None:
        raise gateway.failure
    return 0
