"""The request path, written once.

callers     who is calling: `Callers` → `Caller`
router      which routes may answer, in which order: `Router` → `Choice`
demand      what a request asks for, as far as money goes
own         routes that a customer's own credential pays for
policy      what the operator set about money
admission   may it run: `Admission` → `Ticket`
holds       what it holds, and more of it for another route or a longer answer
refusals    why not, in the caller's words
ticket      permission to run a request
relay       one attempt after another, until a route answers
large       large bodies are read one after another
failures    what a failed attempt means, to us and to the caller
streams     answers that are still running
settlement  what it cost, on the books
recent      this process's last requests, which the database may not have yet
replays     `Idempotency-Key`: the same request again gets the same answer
"""
