# SPDX-License-Identifier: Apache-2.0
"""Models and their versions: what is there, what is wanted, what is tried, loaded and unloaded."""
