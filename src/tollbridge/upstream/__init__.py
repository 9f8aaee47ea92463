"""Calling out to providers.

pool        `Pool`: HTTP/1.1 to one origin. Bytes of a request in, a status, headers and chunks of bytes out; it knows
            no model, no dialect and no money
connection  one exchange on one socket: parser, time-outs, caps, back-pressure; `Limits` and `Response`
dial        addresses raced against each other, TLS
auth        name → signer: what a provider wants to see of the operator's credential
health      which upstream may be called now: cool-downs and circuit breakers
"""
