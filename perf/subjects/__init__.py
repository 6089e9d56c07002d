# SPDX-License-Identifier: Apache-2.0
"""What is compared: this server or another version of it, and floors, each started and timed in one way."""
