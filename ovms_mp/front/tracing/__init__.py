# SPDX-License-Identifier: Apache-2.0
"""Spans of calls, for OpenTelemetry collectors; only here is opentelemetry imported, and only with ``--trace``."""
