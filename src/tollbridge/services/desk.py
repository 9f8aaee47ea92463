"""What it takes to serve people: the desk at which they register, log in and change what is theirs."""

from collections.abc import Callable

import msgspec

from tollbridge.config import Settings
from tollbridge.services.mail import Post
from tollbridge.services.passwords import Passwords
from tollbridge.services.secrets import Secrets
from tollbridge.store.db import Database


class Desk(msgspec.Struct, frozen=True):
    """`url`: where people reach this gateway. Links are built from it and never from anything in a request."""

    database: Database
    master: Secrets
    passwords: Passwords
    post: Post
    url: str
    now: Callable[[], Settings]

    @property
    def settings(self) -> Settings:
        """The settings in force now."""
        return self.now()
