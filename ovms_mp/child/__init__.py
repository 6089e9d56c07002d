# SPDX-License-Identifier: Apache-2.0
"""Child processes of the manager: start, specification, heartbeat and exit."""
