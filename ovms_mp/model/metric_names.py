# SPDX-License-Identifier: Apache-2.0
"""Names of the families that ``/metrics`` can show. Dashboards have them, so they are an interface."""

from __future__ import annotations

STREAMS = "ovms_streams"
CURRENT_REQUESTS = "ovms_current_requests"
REQUESTS_SUCCESS = "ovms_requests_success"
REQUESTS_FAIL = "ovms_requests_fail"
REQUEST_TIME = "ovms_request_time_us"
INFERENCE_TIME = "ovms_inference_time_us"
WAIT_TIME = "ovms_wait_for_infer_req_time_us"
INFER_REQUESTS = "ovms_infer_req_queue_size"
INFER_REQUESTS_ACTIVE = "ovms_infer_req_active"

_OF_GRAPHS = (
    "ovms_current_graphs",
    "ovms_requests_accepted",
    "ovms_requests_rejected",
    "ovms_graph_error",
    "ovms_graph_processing_time_us",
    "ovms_responses",
)
"""OVMS has them for MediaPipe graphs. A list may have them; there are no graphs here, so nothing is shown of them."""

OWN_METRICS: tuple[str, ...] = ()
"""What OVMS does not have."""

DEFAULT_METRICS: tuple[str, ...] = (
    STREAMS,
    CURRENT_REQUESTS,
    REQUESTS_SUCCESS,
    REQUESTS_FAIL,
    REQUEST_TIME,
    INFERENCE_TIME,
    WAIT_TIME,
    *_OF_GRAPHS,
    *OWN_METRICS,
)
"""Shown where no list says otherwise."""
ALL_METRICS: tuple[str, ...] = (*DEFAULT_METRICS, INFER_REQUESTS, INFER_REQUESTS_ACTIVE)
