# SPDX-License-Identifier: Apache-2.0
"""What several tests need: the server and its clients as processes, models, and the ledger."""
