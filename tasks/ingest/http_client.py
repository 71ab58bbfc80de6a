"""Where the server of a corpus at ``http://`` or ``https://`` may send us.

A server can answer with a redirect to anywhere, also to a service of this machine or of its
network. So besides the corpus's own host and port only public addresses are connected to; from
``https`` never to ``http``; and to no other host goes what may be a password: not the user of the
address, and no header that fsspec's configuration adds. aiohttp follows ten redirects at most.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiohttp import ClientRequest, ClientResponse, ClientSession
    from yarl import URL

#: IPv6 addresses behind which a gateway reaches the IPv4 address in their last 32 bits.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
#: What a request to another host may have in its head.
_HARMLESS = {"accept", "accept-encoding", "connection", "host", "range", "user-agent"}
#: The last part of an address, behind those that fsspec chains before it (``zip::https://...``).
_HTTP = re.compile(r"(?:.*::)?(https?)://", re.IGNORECASE | re.DOTALL)


def guard(address: str) -> dict[str, Any]:
    """Return fsspec's options for an address: a client that goes nowhere else, where it is one of
    ``http`` or ``https``; else none.
    """
    match = _HTTP.match(address)
    if match is None:
        return {}
    from yarl import URL

    own = URL(address[match.start(1) :])
    return {match[1].lower(): {"get_client": partial(_open_session, own)}}


async def _open_session(own: URL, **options: Any) -> ClientSession:
    import asyncio

    import aiohttp

    try:
        found = await asyncio.get_running_loop().getaddrinfo(own.host, own.port)
    except OSError:  # the request will say so
        found = []
    places = frozenset((place[4][0], place[4][1]) for place in found)
    connector = aiohttp.TCPConnector(socket_factory=partial(_make_socket, places))
    return aiohttp.ClientSession(
        connector=connector, middlewares=[partial(_check_request, own)], **options
    )


def _make_socket(own: frozenset[tuple[Any, Any]], place: Any) -> socket.socket:
    """Return a socket for an address as it was resolved: a name may mean another one each time."""
    family, kind, protocol, _, address = place
    if (address[0], address[1]) not in own and not is_public(address[0]):
        raise PermissionError(
            errno.EACCES, "neither the corpus's own host and port nor a public address"
        )
    return socket.socket(family, kind, protocol)


def is_public(address: str) -> bool:
    """Tell whether an IP address is one of the internet's, not of this machine or its network.

    An IPv6 address with an IPv4 one in it (mapped, 6to4, Teredo, NAT64) is what that one is.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.is_site_local:
            return False
        teredo = found.teredo[1] if found.teredo else None
        inner = found.ipv4_mapped or found.sixtofour or teredo
        if found in _NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            return inner.is_global and not inner.is_multicast
    return found.is_global and not found.is_multicast


async def _check_request(
    own: URL, request: ClientRequest, send: Callable[[ClientRequest], Awaitable[ClientResponse]]
) -> ClientResponse:
    """Send a request; aiohttp passes each one that a redirect asks for, too."""
    url = request.url
    if own.scheme == "https" and url.scheme != "https":
        raise PermissionError(errno.EACCES, f"{own.host} sends us from https to {url.scheme}")
    upgraded = own.scheme == "http" and url.scheme == "https" and url.is_default_port()
    if url.host != own.host or not (url.port == own.port or upgraded):
        for name in [name for name in request.headers if name.lower() not in _HARMLESS]:
            del request.headers[name]
    return await send(request)
