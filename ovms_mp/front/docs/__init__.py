# SPDX-License-Identifier: Apache-2.0
"""The documentation for browsers, below ``/docs/``: the pages of :mod:`ovms_mp.docs` as HTML."""
