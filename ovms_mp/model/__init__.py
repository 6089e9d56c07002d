# SPDX-License-Identifier: Apache-2.0
"""Pure values of the domain: dtypes, tensor specs, versions and their status. No I/O, no process state."""
