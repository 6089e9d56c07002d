# SPDX-License-Identifier: Apache-2.0
"""TLS in front of any protocol on an event loop: handshakes, their limits, and what those who fail are told."""
