"""Listening sockets: one for a single process, a group of them for workers. Imports little, for the supervisor's sake.

Each worker has a socket of its own on the same port (SO_REUSEPORT), and the kernel distributes connections. One socket
for all would be simpler, but then the worker that wakes first takes most: of 64 connections that came at once, one of
four workers got up to 45, and connections are kept for long. With a group, each got 12 to 20.

The supervisor keeps all sockets open, so that none is ever closed with connections waiting in it.

systemd, or something that acts like it, may hand over a socket that it keeps open (sd_listen_fds(3)): callers then wait
while nobody serves, and are never refused. Workers share that one.
"""

import array
import errno
import os
import socket
import struct
import sys
from collections.abc import Sequence

from tollbridge.errors import ConfigError

__all__ = ["handed_over", "listen", "listen_for", "steer"]

BACKLOG = 2048

_FIRST_HANDED_OVER = 3
# Linux, asm-generic/socket.h; Python has no name for it.
_SO_ATTACH_REUSEPORT_CBPF = 51
# linux/filter.h: a filter's instructions, and the offset at which it reads a random number.
_LOAD, _MODULO, _IF_EQUAL, _RETURN = 0x20, 0x94, 0x15, 0x06
_RANDOM = 0xFFFFF000 + 56

_ADVICE = {
    errno.EADDRINUSE: "; stop what is listening there, or choose another port with --port (make serve: PORT=)",
    errno.EADDRNOTAVAIL: "; --host takes an address of this machine, or 0.0.0.0 for all of them",
    errno.EACCES: "; choose a port above 1023 with --port, and let a reverse proxy take the lower one",
    socket.EAI_NONAME: "; --host takes an address or a name of this machine",
}


def handed_over() -> socket.socket | None:
    """The listening socket that this process was started with, if any."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    sock = socket.socket(fileno=_FIRST_HANDED_OVER)
    sock.set_inheritable(False)
    return sock


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Port 0 takes a free port, "::" takes IPv4 as well. ConfigError if it cannot be had."""
    return _listen(host, port, shared=False)


def listen_for(count: int, host: str, port: int) -> list[socket.socket]:
    """A listening socket for each of `count` workers, all on one port. ConfigError if they cannot be had."""
    first = handed_over()
    if first is None and sys.platform != "linux":
        # Elsewhere SO_REUSEPORT does not distribute connections, if it exists at all.
        first = listen(host, port)
    if first is not None:
        return [first, *(first.dup() for _ in range(count - 1))]
    # A socket that does not share detects anything that already listens there, another Tollbridge included.
    with listen(host, port) as probe:
        port = probe.getsockname()[1]
    return [_listen(host, port, shared=True) for _ in range(count)]


def steer(sockets: Sequence[socket.socket], taking: Sequence[int]) -> None:
    """Distribute new connections at random among those of `listen_for`'s sockets whose numbers are in `taking`.

    If the kernel cannot do that, they go to all.
    """
    if sys.platform != "linux" or not taking or len(sockets) < 2:
        return
    # Instructions of classic BPF: random % n, then the n-th number of `taking`.
    program = [(_LOAD, 0, 0, _RANDOM), (_MODULO, 0, 0, len(taking))]
    for chance, number in enumerate(taking):
        program += [(_IF_EQUAL, 0, 1, chance), (_RETURN, 0, 0, number)]
    program.append((_RETURN, 0, 0, taking[0]))
    code = array.array("B", b"".join(struct.pack("=HBBI", *each) for each in program))
    address, _ = code.buffer_info()
    try:
        sockets[0].setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, struct.pack("@HP", len(program), address))
    except OSError:
        return


def _listen(host: str, port: int, *, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server(
            (host, port), family=family, backlog=BACKLOG, reuse_port=shared, dualstack_ipv6=host == "::"
        )
    except OSError as error:
        # Python repeats the address in its message.
        reason = (error.strerror or str(error)).partition(" (while")[0]
        advice = _ADVICE.get(error.errno or 0, "")
        raise ConfigError(f"cannot listen on {host}:{port}: {reason}{advice}") from error
