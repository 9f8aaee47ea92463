"""The inference edge, without a framework.

inference.py    Inference: `/v1/…` as a raw ASGI application; ENDPOINTS
downstream.py   Downstream: one request as the application sees it; answers synchronously, tells when the client leaves
connection.py   Connection: uvicorn's HTTP protocol with deadlines, caps and strict framing; ServerLimits
server.py       listen and Server: running them, draining; LoopLag
demo.py         DemoProvider: a provider on loopback for who has no provider's key yet
"""
