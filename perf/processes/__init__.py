# SPDX-License-Identifier: Apache-2.0
"""Processes of a measurement: started, waited for, ended; what they use by /proc."""
