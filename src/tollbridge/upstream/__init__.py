"""Calling out to providers.

pool        `Pool`: HTTP/1.1 to one origin. Bytes of a request in, a status, headers and chunks of bytes out; it knows
            nothing of models, dialects and money
connection  one exchange on one socket: parser, time-outs, caps, back-pressure; `Limits` and `Response`
dial        addresses raced against each other, TLS
auth        how each provider takes its credential: a name → the headers to send
opening     what it takes to call one upstream: its pool and its headers
health      which upstreams may be called now, and how fast they are: cool-downs, circuit breakers, running means
fetch       what a caller's URL points to, for providers that take no URLs
"""
