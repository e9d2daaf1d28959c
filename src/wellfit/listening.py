"""Answering over HTTP from this machine: who may ask, on which address, and leaving well.

What listens on an address that other machines reach needs a token; what does not is asked by this machine's own names alone, for a page
of another site that a browser here shows could otherwise have its name lead to it. Applications are FastAPI's (extra `serve`).

    >>> turn(app, bound("127.0.0.1", 8000))
"""

import functools
import ipaddress
import signal
import socket
from typing import Any

from wellfit.errors import MissingExtra, RecipeError, RunError

GRACE = 30  # seconds that requests which have begun are waited for at the end
LEAST = 8  # characters of a token


def check_token(host: str, token: str | None) -> None:
    """Raises RecipeError where other machines could ask and need know nothing, or what they need to know is soon guessed."""
    if token is not None and len(token) < LEAST:
        raise RecipeError(f"The token has {len(token)} characters; give one of at least {LEAST} that nobody can guess.")
    if token is None and not is_loopback(host):
        raise RecipeError(
            f"`--host {host}` can be reached from other machines, so whoever asks must know a token. Add `--token TOKEN` (or set "
            "WELLFIT_TOKEN), or leave the host at 127.0.0.1."
        )


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone; of a name, whether all its addresses are."""
    if not host:
        return False
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(one.partition("%")[0]).is_loopback for one in found)


@functools.lru_cache(maxsize=64)
def is_here(host: str) -> bool:
    """Whether a Host header names this machine."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes any that is free. Raises RecipeError or RunError where it cannot."""
    if not 0 <= port < 65536:
        raise RecipeError(f"`--port` is {port}; it must be from 0, which takes any that is free, to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(2048)
        except OSError:
            found.close()
            raise
    except (OSError, UnicodeError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise RunError(
            f"{host} port {port} cannot be listened on: {told}. Name another with `--host` and `--port`."
        ) from None
    return found


def address(listens: socket.socket, host: str) -> str:
    """Where a browser finds it."""
    return f"http://{f'[{host}]' if ':' in host else host}:{listens.getsockname()[1]}"


def turn(app: Any, listens: socket.socket) -> None:
    """Answers until SIGTERM or SIGINT; what has begun by then is answered, and the socket closed."""
    uvicorn = needed("uvicorn", "Answering over HTTP")
    server = uvicorn.Server(
        uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=GRACE, lifespan="on",
        )
    )  # fmt: skip
    # uvicorn raises the signal that ended it once more when it is done; here it has been heeded by then.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        server.run(sockets=[listens])
    finally:
        listens.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def needed(module: str, what: str, package: str = "") -> Any:
    """A module of the extra `serve`. Raises MissingExtra without it."""
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtra(package or module, "serve", what) from None
