# SPDX-License-Identifier: Apache-2.0
"""What was counted of models' requests, over all processes, as Triton's statistics extension has it."""
