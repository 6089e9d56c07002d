# SPDX-License-Identifier: Apache-2.0
"""Servers on several machines behind one address."""
