# SPDX-License-Identifier: Apache-2.0
"""Who may call what: checks of a front's gate that are the same for all transports."""
