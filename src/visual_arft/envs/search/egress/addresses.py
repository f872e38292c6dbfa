"""Which IP addresses are somebody's public servers.

`ipaddress.is_global` is not enough: it calls multicast, NAT64, 6to4 and some clouds' metadata
global, and what it says changes with the version of Python.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

# IANA's special-purpose registries, multicast and class E, and Azure's wire server.
_NOT_PUBLIC_4 = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
    *("172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24"),
    *("192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24"),
    *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32"),
)
# Outside 2000::/3 nothing is public: loopback, local, NAT64, mapped and compatible addresses.
# Inside it: Teredo and its neighbours, documentation, 6to4, direct delegation.
_PUBLIC_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
_NETWORKS_4 = tuple(map(IPv4Network, _NOT_PUBLIC_4))
_NETWORKS_6 = tuple(map(IPv6Network, _NOT_PUBLIC_6))
# Some hosts tunnel to IPv4 by the end of an address: ISATAP.
_ISATAP = (0x00005EFE, 0x02005EFE)


def is_public(address: str) -> bool:
    """Whether an address is a server on the internet that anybody may ask.

    >>> [is_public(each) for each in ("1.1.1.1", "127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1")]
    [True, False, False, False]
    """
    if "%" in address:  # a zone belongs to a link of this machine
        return False
    parsed = ip_address(address)
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in _NETWORKS_4)
    return _is_public_6(parsed)


def _is_public_6(address: IPv6Address) -> bool:
    if address.ipv4_mapped is not None:
        return is_public(str(address.ipv4_mapped))
    if address not in _PUBLIC_6 or any(address in network for network in _NETWORKS_6):
        return False
    return (int(address) >> 32) & 0xFFFFFFFF not in _ISATAP
