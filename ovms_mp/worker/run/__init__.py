# SPDX-License-Identifier: Apache-2.0
"""From a task to its answer: queues, infer requests, shapes, what is sent back."""
