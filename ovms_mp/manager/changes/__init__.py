# SPDX-License-Identifier: Apache-2.0
"""Changes of the server's state that clients ask for: begun in turn, answered when every process has them."""
