# SPDX-License-Identifier: Apache-2.0
"""Commands that do not serve: they ask, show or check, and end."""
