# SPDX-License-Identifier: Apache-2.0
"""What is about the server itself and belongs to no model: configuration, reload, status. Over REST only."""
