# SPDX-License-Identifier: Apache-2.0
"""The manager process: supervises children, watches repositories, loads versions, publishes routes."""
