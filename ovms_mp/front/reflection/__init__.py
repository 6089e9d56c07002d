# SPDX-License-Identifier: Apache-2.0
"""The standard reflection service of gRPC: what this server offers, for tools such as grpcurl."""
