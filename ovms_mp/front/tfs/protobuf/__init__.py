# SPDX-License-Identifier: Apache-2.0
"""Predict requests and answers as protobuf messages."""
