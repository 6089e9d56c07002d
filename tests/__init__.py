# SPDX-License-Identifier: Apache-2.0
"""All tests; see CONTRIBUTING in the README."""
