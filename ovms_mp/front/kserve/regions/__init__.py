# SPDX-License-Identifier: Apache-2.0
"""Triton's system shared memory extension: calls that register regions, and parameters that name ranges of them."""
