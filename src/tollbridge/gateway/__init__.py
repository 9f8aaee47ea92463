"""The request path, written once.

`callers` who is calling · `admission` may it run, and what may it cost → `Ticket` · `refusals` why not · `relay` one
attempt after another, until a route answers · `streams` the answers that are still running · `settlement` what it cost,
on the books.
"""
