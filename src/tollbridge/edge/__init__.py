"""The inference edge, without a framework.

downstream.py   Downstream: one request as the application sees it; answers synchronously, tells when the client leaves
connection.py   Connection: uvicorn's HTTP protocol with deadlines, caps and strict framing; ServerLimits
server.py       listen, serve, Server: running them, draining; LoopLag
"""
