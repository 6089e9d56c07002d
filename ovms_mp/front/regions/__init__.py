# SPDX-License-Identifier: Apache-2.0
"""Clients' shared memory: regions of it that are registered, and tensors in them."""
