# SPDX-License-Identifier: Apache-2.0
"""What the server must answer: one table for both protocols, in the words of the OVMS generations it replaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.conformance.cases_answers import ANSWERS
from tests.conformance.cases_kserve import KSERVE
from tests.conformance.cases_long import LONG_TENSORS
from tests.conformance.cases_protocol import PROTOCOL
from tests.conformance.cases_refusals import REFUSALS

if TYPE_CHECKING:
    from tests.conformance.case import Case

CASES: tuple[Case, ...] = (*ANSWERS, *REFUSALS, *PROTOCOL, *LONG_TENSORS, *KSERVE)
