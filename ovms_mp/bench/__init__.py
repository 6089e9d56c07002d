# SPDX-License-Identifier: Apache-2.0
"""Load on a server that speaks TensorFlow Serving's API or KServe's: what ``ovms_mp bench`` does, and ``tune`` uses.

``command`` reads flags and prints, ``preparation`` asks the server for the model's inputs and proves that one request
is answered, ``measuring`` has a load applied and ``figures`` reduces it. A load is made by h2load (``h2load``) or by
processes of our own (``own_load``, whose children run ``generator``), and both give the same record of requests
(``observed``). Nothing here is imported by the server.
"""
