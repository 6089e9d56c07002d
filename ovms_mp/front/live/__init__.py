# SPDX-License-Identifier: Apache-2.0
"""What open live pages are told (:mod:`ovms_mp.front.page`): states, rates, latencies, processes, recent events."""
