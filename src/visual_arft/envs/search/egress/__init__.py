"""What may leave this machine on a model's behalf: one list of addresses, held to everywhere.

The guard keeps pages and models away from this machine, its network and a cloud's metadata, and
evaluation away from the hosts of its answers. It does not judge what a public site says or does.
"""

from visual_arft.envs.search.egress.guard import Blocked, Guard

__all__ = ["Blocked", "Guard"]
