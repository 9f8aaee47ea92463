"""The table of what is measured: how each gateway is installed, configured and started.

Each runs in one process on one core with its own logging off, in front of the same mock upstream; whatever is known to
make it faster is switched on. Traps are noted beside the setting that avoids them.
"""

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench import peers

MODEL = "gpt-4o-mini"
CHAT = "/v1/chat/completions"


@dataclass(frozen=True)
class Place:
    """Where a gateway is started: its port, the mock's, and an empty directory of its own on the measured disk."""

    port: int
    mock_port: int
    directory: Path

    @property
    def upstream(self) -> str:
        return f"http://127.0.0.1:{self.mock_port}/v1"

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        return path


@dataclass(frozen=True)
class Launch:
    """How to start it, and how to call it. No command: the mock itself is called."""

    command: tuple[str | Path, ...]
    version: str
    environment: Mapping[str, str] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    path: str = CHAT


@dataclass(frozen=True)
class Gateway:
    """A row of the table. `prepare` installs what is missing, writes the configuration and raises NotRunError when it
    cannot be run here."""

    name: str
    prepare: Callable[[Place], Launch]
    note: str


def _direct(_place: Place) -> Launch:
    return Launch(command=(), version="")


def _nginx(place: Place) -> Launch:
    nginx = peers.require("nginx", "nginx-light")
    config = place.write(
        "nginx.conf",
        f"""daemon off;
worker_processes 1;
pid {place.directory}/nginx.pid;
error_log {place.directory}/error.log;
events {{ worker_connections 8192; }}
http {{
    access_log off;
    client_body_temp_path {place.directory}/body;
    proxy_temp_path {place.directory}/proxy;
    fastcgi_temp_path {place.directory}/fastcgi;
    uwsgi_temp_path {place.directory}/uwsgi;
    scgi_temp_path {place.directory}/scgi;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    upstream mock {{
        server 127.0.0.1:{place.mock_port};
        keepalive 1024;
        keepalive_requests 1000000000;
        keepalive_timeout 600s;
    }}
    server {{
        listen 127.0.0.1:{place.port} backlog=4096;
        client_max_body_size 16m;
        client_body_buffer_size 64k;
        location / {{
            proxy_pass http://mock;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
""",
    )
    version = peers.output(nginx, "-v").rpartition("/")[2]
    return Launch((nginx, "-e", place.directory / "error.log", "-c", config), version)


# Later releases need a certifi that is not published. The proxy looks for opentelemetry on each request, so its absence
# costs an exception per call. Without httptools and uvloop, uvicorn parses in Python.
_LITELLM = (
    "litellm[proxy]==1.106.0",
    "opentelemetry-api==1.45.2",
    "opentelemetry-sdk==1.45.2",
    "httptools==0.9.0",
    "uvloop==0.23.0",
)


def _litellm(place: Place) -> Launch:
    programs = peers.python_peer("litellm", _LITELLM)
    # It refuses to start with a master key that does not look random; without any, as is allowed, it is no faster.
    key = "sk-" + secrets.token_hex(24)
    model = {"model": f"openai/{MODEL}", "api_base": place.upstream, "api_key": "sk-mock"}
    config = place.write(
        "litellm.json",  # YAML by its name, and JSON is YAML
        json.dumps(
            {
                "model_list": [{"model_name": MODEL, "litellm_params": model}],
                "litellm_settings": {"set_verbose": False, "num_retries": 0, "telemetry": False},
                "general_settings": {
                    "master_key": key,
                    "disable_spend_logs": True,
                    "disable_error_logs": True,
                },
            }
        ),
    )
    quiet = place.write(
        "log.json",
        json.dumps(
            {"version": 1, "disable_existing_loggers": False, "loggers": {"uvicorn.access": {"level": "ERROR"}}}
        ),
    )
    command = (programs / "litellm", "--config", config, "--host", "127.0.0.1", "--port", str(place.port))
    return Launch(
        (*command, "--num_workers", "1", "--log_config", quiet, "--keepalive_timeout", "600"),
        version=_LITELLM[0].partition("==")[2],
        # Take the price list from the package: otherwise the start waits for a download.
        environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"},
        headers=(f"authorization: Bearer {key}",),
    )


def _ferrogw(place: Place) -> Launch:
    programs = peers.python_peer("ferrogw", ("ferrogw==1.5.10",))
    config = place.write("ferrogw.yaml", "strategy:\n  mode: single\ntargets:\n  - virtual_key: openai\n")
    return Launch(
        (programs / "ferrogw", "serve"),
        version="1.5.10",
        environment={
            "GATEWAY_CONFIG": str(config),
            "PORT": str(place.port),
            "MASTER_KEY": "fgw_" + secrets.token_hex(16),
            "OPENAI_API_KEY": "sk-mock",
            "OPENAI_BASE_URL": place.upstream,
            "ALLOW_UNAUTHENTICATED_PROXY": "true",
            "LOG_LEVEL": "error",
            "FERRO_MODEL_CATALOG_TIMEOUT": "0",
            "RATE_LIMIT_RPS": "0",
            "GOMAXPROCS": "1",
        },
    )


# Its own version ranges admit later releases of both, which cost it a quarter of its speed.
_PORTKEY_PINS = {"@hono/node-server": "1.13.5", "hono": "4.9.7"}


def _portkey(place: Place) -> Launch:
    node = peers.require("node", "Node.js")
    modules = peers.node_peer("portkey", {"@portkey-ai/gateway": "1.15.2"}, _PORTKEY_PINS)
    server = modules / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    return Launch(
        (node, server, f"--port={place.port}", "--headless"),
        version="1.15.2",
        environment={"NODE_ENV": "production"},
        headers=(
            "x-portkey-provider: openai",
            f"x-portkey-custom-host: {place.upstream}",
            "authorization: Bearer sk-mock",
        ),
    )


UPSTREAM_KEY = {"BENCH_UPSTREAM_KEY": "sk-mock"}


def tollbridge_config(place: Place, **top_level: str) -> Path:
    """A configuration with the mock as its one provider, and a plan `bench` that limits and never refuses."""
    settings = "".join(f"{name} = {json.dumps(value)}\n" for name, value in top_level.items())
    return place.write(
        "tollbridge.toml",
        f"""{settings}
[providers.mock]
dialect = "openai_chat"
base_url = "{place.upstream}"
api_key = "env:BENCH_UPSTREAM_KEY"

[[models]]
id = "{MODEL}"
type = "chat"
context_window = 128000
price = {{ input = "0.15", output = "0.60" }}
routes = [{{ provider = "mock", model = "{MODEL}" }}]

[plans.bench]
rpm = 100000000
tpm = 1000000000
concurrency = 10000
""",
    )


def _tollbridge(place: Place) -> Launch:
    """With everything it does switched on: authentication, limits, durable hold and settle, usage rows."""
    return tollbridge_launch(place, tollbridge_config(place))


def tollbridge_launch(place: Place, config: Path) -> Launch:
    """This checkout with a rich account on the plan `bench`. NotRunError: it cannot be set up."""
    where = ("--config", str(config), "--data-dir", str(place.directory / "data"))
    program = (sys.executable, "-m", "tollbridge")
    version = peers.output(*program, "--version")
    if not re.search(r"\d+\.\d+", version):
        raise peers.NotRunError("this checkout has no command line yet")

    def run(*words: str) -> str:
        done = subprocess.run(
            [*program, *words, *where], env={**os.environ, **UPSTREAM_KEY}, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise peers.NotRunError(f"tollbridge {words[0]} {words[1]}: {done.stderr.strip()[-300:]}")
        return done.stdout.strip()

    run("account", "create", "bench@example.com", "--plan", "bench", "--credit", "1000000")
    key = run("key", "create", "--account", "bench@example.com")
    return Launch(
        (*program, "serve", *where, "--port", str(place.port)),
        version=version.split()[-1],
        environment=UPSTREAM_KEY,
        headers=(f"authorization: Bearer {key}",),
    )


GATEWAYS = (
    Gateway("direct", _direct, "the mock itself: no gateway"),
    Gateway("nginx", _nginx, "bare reverse proxy, one worker, keep-alive to the upstream, no buffering: the limit"),
    Gateway("tollbridge", _tollbridge, "authentication, limits, durable hold and settle, usage row: all on"),
    Gateway("ferrogw", _ferrogw, "Go; no authentication, no accounting"),
    Gateway("portkey", _portkey, "Node; no authentication, no accounting"),
    Gateway("litellm", _litellm, "Python; master key, no database, no accounting"),
)
