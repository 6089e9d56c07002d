# SPDX-License-Identifier: Apache-2.0
"""Certificates and keys: read, checked, and made into what TLS servers need. Used by the manager and by all fronts."""
