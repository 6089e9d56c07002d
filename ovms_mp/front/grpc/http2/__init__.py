# SPDX-License-Identifier: Apache-2.0
"""An HTTP/2 and gRPC server of our own, for gRPC fronts; each module imports only those before it.

HTTP/2 without I/O:

- ``limits``: what peers may do; ``faults``: what it is when they do more, or break a rule; ``rates``: how often;
- ``frames``, ``settings``: layouts; ``headers``, ``field_blocks``: header sections and HPACK;
- ``window``, ``stream``, ``streams``: the state of streams and of flow control;
- ``receiver``: DATA that comes in; ``reader``: octets to frames; ``output``: what is to be written;
- ``connection``: all of these as one connection: what each frame does, grants, drain.

gRPC: ``methods``, ``call``. Sockets and time: ``transports`` (what TLS changes), ``turn``, ``writer``, ``deadlines``,
``connections`` (how many, and who leaves), ``protocol`` (one connection of asyncio), ``server``.
"""
