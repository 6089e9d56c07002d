# SPDX-License-Identifier: Apache-2.0
"""The gRPC front: the only place of the server that imports grpc."""
