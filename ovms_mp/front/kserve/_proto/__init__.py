# SPDX-License-Identifier: Apache-2.0
"""Code that protoc generated from ``protos/kserve.proto``; ``python protos/generate.py`` rewrites it.

A process that imports these modules cannot import those of tritonclient or kserve, as both register the same message names.
"""
