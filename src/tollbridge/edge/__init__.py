"""The inference edge, without a framework.

inference.py    Inference: everything under `/v1`, and the probes; ENDPOINTS
lookups.py      Lookups: what a customer may ask about: a request, credit, a key, an estimate
heads.py        the headers of a request that matter, and the names of our own
paths.py        paths that are nearly right
bodies.py       Bodies: large bodies are read when there is memory for them
recorder.py     Recorder: a Downstream that keeps an answer for its Idempotency-Key
nullless.py     Nullless: a Downstream for OpenRouter's SDKs, which refuse the nulls of chunks
downstream.py   Downstream: one request as the application sees it; answers synchronously, tells when the client leaves
connection.py   Connection: uvicorn's HTTP protocol with deadlines, caps and strict framing; ServerLimits
repeats.py      KnownHead: a head like the one before it on its connection, which is not parsed again
server.py       Server: running them, draining; LoopLag
listening.py    listen, listen_for, steer: the sockets of one process, or of workers
workers.py      Supervisor: keeps workers going; Berth: a worker's end of it
webhooks.py     Webhooks: the payment processor's webhook, as raw ASGI
demo.py         DemoProvider: a provider on loopback for those who have no provider's key yet
"""
