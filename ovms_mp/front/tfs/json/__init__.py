# SPDX-License-Identifier: Apache-2.0
"""Predict requests and answers as the JSON of TensorFlow Serving's REST API."""
