# SPDX-License-Identifier: Apache-2.0
"""ovms_mp: a multi-process model server for OpenVINO models with the TensorFlow Serving API."""

__version__ = "0.1.0"
