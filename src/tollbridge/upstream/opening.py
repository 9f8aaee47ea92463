"""What it takes to call one upstream: its connections, and the headers of its calls."""

import ssl

import msgspec

from tollbridge.upstream import auth
from tollbridge.upstream.auth import AccessToken, Headers
from tollbridge.upstream.pool import Limits, Pool
from tollbridge.values import Upstream


class OpenUpstream(msgspec.Struct, frozen=True):
    """How to call one upstream: what it is, its connections, its fixed headers, and those that change (`token`)."""

    value: Upstream
    pool: Pool
    headers: Headers
    token: AccessToken | None = None

    def pools(self) -> list[Pool]:
        """All that has to be closed."""
        return [self.pool] if self.token is None else [self.pool, self.token.pool]


def open_upstream(upstream: Upstream, tls: ssl.SSLContext | None) -> OpenUpstream:
    """Nothing is connected yet. Raises `ConfigError` for an address or a credential that cannot be used."""
    limits = Limits(
        connect=upstream.connect_timeout,
        first_byte=upstream.first_byte_timeout,
        gap=upstream.gap_timeout,
        total=upstream.total_timeout,
        max_connections=upstream.max_connections,
    )
    pool, token = Pool(upstream.base_url, limits, ssl_context=tls), auth.access_token(upstream)
    return OpenUpstream(upstream, pool, auth.headers(upstream), token)
