# SPDX-License-Identifier: Apache-2.0
"""Code that protoc generated from ``protos/grpc_reflection*.proto``; ``python protos/generate.py`` rewrites it.

A process that imports these modules cannot import grpcio-reflection's, as both register the same message names.
"""
