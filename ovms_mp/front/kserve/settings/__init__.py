# SPDX-License-Identifier: Apache-2.0
"""Triton's trace and logging extensions: settings of the whole server."""
