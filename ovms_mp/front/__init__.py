# SPDX-License-Identifier: Apache-2.0
"""The front processes: one transport-neutral service under thin gRPC and REST adapters."""
