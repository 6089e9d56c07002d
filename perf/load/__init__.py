# SPDX-License-Identifier: Apache-2.0
"""What is sent: scenarios, bodies, load by h2load, and clients that compare answers."""
