"""The request path, written once.

callers     who is calling: `Callers` → `Caller`
admission   may it run, and what may it cost: `Admission` → `Ticket`
demand      what a request asks for, as far as money goes
own         routes that a customer's own credential pays for
refusals    why not, in the caller's words
relay       one attempt after another, until a route answers
streams     answers that are still running
settlement  what it cost, on the books
recent      this process's last requests, which the database may not have yet
replays     `Idempotency-Key`: the same request again gets the same answer
"""
