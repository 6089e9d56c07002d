# SPDX-License-Identifier: Apache-2.0
"""An HTTP/2 and gRPC server of our own, for gRPC fronts; each module imports only those before it.

``limits, frames, headers, output, connection``: HTTP/2 without I/O; ``methods, call``: gRPC; ``server``: sockets.
"""
