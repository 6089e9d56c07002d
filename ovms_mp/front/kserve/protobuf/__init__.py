# SPDX-License-Identifier: Apache-2.0
"""Inference requests and answers of KServe v2 as protobuf messages."""
