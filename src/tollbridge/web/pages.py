"""All pages. A path that stands here is served, by whom it says and to whom it says."""

from tollbridge.web import dashboard, login
from tollbridge.web.page import Page

PAGES: tuple[Page, ...] = (
    *login.PAGES,
    *dashboard.PAGES,
)
