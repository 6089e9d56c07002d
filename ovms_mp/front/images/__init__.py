# SPDX-License-Identifier: Apache-2.0
"""Encoded images as inputs: looked at on the event loop, decoded in threads, written straight into the arena."""
