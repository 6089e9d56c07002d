# SPDX-License-Identifier: Apache-2.0
"""The inference worker process: the only place that imports openvino."""
