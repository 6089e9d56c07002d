# SPDX-License-Identifier: Apache-2.0
"""The manager process: supervises children, watches repositories, plans loads, publishes routing."""
