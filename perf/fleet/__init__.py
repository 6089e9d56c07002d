# SPDX-License-Identifier: Apache-2.0
"""The decision code of a fleet's controller against servers that are simulated."""
