# SPDX-License-Identifier: Apache-2.0
"""Serialized protobuf messages, read and written without building objects of them: what all protocols need for that."""
