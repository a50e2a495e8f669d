"""Proxies that stand between a client and a real service, and fail as the network and the service do.

:class:`FaultProxy` is put in front of an AWS endpoint, :class:`TcpProxy` in front of a Redis server::

    with FaultProxy(endpoint, faults=ProxyFaults(7, throttle=0.05, lost_reply=0.05)) as proxy:
        client = boto3.client("dynamodb", endpoint_url=proxy.url)
        proxy.fail_next("TransactWriteItems", Fault.LOST_REPLY)
        ...
        assert proxy.counts[Fault.LOST_REPLY] >= 1

    with TcpProxy(stack.redis_url) as proxy:
        projection = RedisProjection(namespace, url=proxy.url)
        proxy.away()
"""

from __future__ import annotations

from streamproc.testing.proxying.aws import FaultProxy
from streamproc.testing.proxying.faults import Fault, ProxyFaults
from streamproc.testing.proxying.tcp import TcpProxy

__all__ = ["Fault", "FaultProxy", "ProxyFaults", "TcpProxy"]
