"""What serving people takes: the desk at which they register, log in and change what is theirs."""

from collections.abc import Callable

import msgspec

from tollbridge.config import Settings
from tollbridge.services.mail import Post
from tollbridge.services.passwords import Passwords
from tollbridge.services.secrets import Secrets
from tollbridge.store.db import Database


class Desk(msgspec.Struct, frozen=True):
    """`url` is where people reach this gateway: links are built from it and from nothing that a request says."""

    database: Database
    master: Secrets
    passwords: Passwords
    post: Post
    url: str
    now: Callable[[], Settings]

    @property
    def settings(self) -> Settings:
        """As they are at this moment."""
        return self.now()
