"""The inference edge, without a framework.

inference.py    Inference: `/v1/…` as a raw ASGI application; ENDPOINTS
downstream.py   Downstream: one request as the application sees it; answers synchronously, tells when the client leaves
connection.py   Connection: uvicorn's HTTP protocol with deadlines, caps and strict framing; ServerLimits
server.py       Server: running them, draining; LoopLag
listening.py    listen, listen_for, steer: the sockets of one process, or of workers
workers.py      Supervisor: keeps workers going; Berth: a worker's end of it
demo.py         DemoProvider: a provider on loopback for who has no provider's key yet
"""
