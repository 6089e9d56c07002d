# SPDX-License-Identifier: Apache-2.0
"""The REST front: the only place that imports falcon and gunicorn."""
