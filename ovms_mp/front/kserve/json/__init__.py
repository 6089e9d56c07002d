# SPDX-License-Identifier: Apache-2.0
"""Inference requests and answers as KServe's REST API has them: JSON, with or without binary tensors behind it."""
