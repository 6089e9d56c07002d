# SPDX-License-Identifier: Apache-2.0
"""Opportunistic batching: requests that wait anyway are run together."""
