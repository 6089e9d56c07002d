# SPDX-License-Identifier: Apache-2.0
"""What is told at ``/metrics``: families of samples, who collects them, and the text that Prometheus reads."""
