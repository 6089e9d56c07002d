# SPDX-License-Identifier: Apache-2.0
"""The standard health service of gRPC."""
