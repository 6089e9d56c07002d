# SPDX-License-Identifier: Apache-2.0
"""Front processes, their ports and their arenas."""
