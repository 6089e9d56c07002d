# SPDX-License-Identifier: Apache-2.0
"""Where model files come from; every source ends as a local version directory."""
