# SPDX-License-Identifier: Apache-2.0
"""KServe's v2 inference protocol with Triton's extensions, over gRPC and REST."""
