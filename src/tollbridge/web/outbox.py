"""The operator's outbox: mail that was sent, and mail that nobody takes away."""

from starlette.responses import Response

from tollbridge.store import mail
from tollbridge.web.page import OPERATOR, Page
from tollbridge.web.visit import Visit

SHOWN = 100


async def outbox(visit: Visit) -> Response:
    post = visit.shared.desk.post
    letters = [(letter, post.text(letter)) for letter in await mail.latest(visit.shared.database, SHOWN)]
    return visit.render("account/outbox.html", letters=letters, sends=post.sends)


PAGES = (Page("GET", "/admin/outbox", OPERATOR, outbox),)
