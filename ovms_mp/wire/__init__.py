# SPDX-License-Identifier: Apache-2.0
"""What crosses processes: messages, channels (ZeroMQ), arenas (shared memory) and leases."""
