# SPDX-License-Identifier: Apache-2.0
"""Code that protoc generated from ``protos/tensorflow_*.proto``; ``python protos/generate.py`` rewrites it.

A process that imports these modules cannot import TensorFlow's own, as both register the same message names.
"""
