# SPDX-License-Identifier: Apache-2.0
"""TensorFlow Serving's messages, without a transport: predict calls, results, status and metadata.

Shared by the gRPC and the REST front, so neither ``grpc`` nor ``falcon`` is imported here.
"""
