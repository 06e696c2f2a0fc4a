"""The operations of the API's description, as Schemathesis makes requests of them."""

from __future__ import annotations

import copy
import os
from collections.abc import Collection, Mapping
from typing import Any

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Ok

from tests.contract.test_openapi import DESCRIBED
from ztlab.model import logbatch

EXAMPLES = int(os.environ.get("ZT_FUZZ_EXAMPLES", "0"))  # of each operation; 0: few, the same ones
Operation = schemathesis.APIOperation[Any, Any, Any, Any]


def fuzzed(names: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """The description, with NAMES in the paths (by collection), beside those that nobody has."""
    found = copy.deepcopy(DESCRIBED)
    for path, methods in found["paths"].items():
        for operation in methods.values():
            for parameter in operation["parameters"]:
                if parameter["in"] == "path":
                    known = {"enum": [*names.get(path.split("/")[3], "1")]}
                    parameter["schema"] = {"anyOf": [known, parameter["schema"]]}
    # A stream is held open for who may have it; what it says is tests/contract/test_wire.py's.
    del found["paths"]["/api/v1/node/stream"]
    return found


CONFIG = SchemathesisConfig.from_dict(
    {
        "generation": {"deterministic": not EXAMPLES, "allow-x00": True},
        "checks": {
            # A schema cannot say which names there are: what is well-formed may be refused for it.
            # A patch is judged together with what it patches, so what is there is compared first.
            "negative_data_rejection": {
                "expected-statuses": ["400", "401", "403", "404", "409", "412", "415", "422", "428"]
            },
            "positive_data_acceptance": {
                "expected-statuses": ["2xx", "400", "401", "403", "404", "409", "412", "422", "428"]
            },
        },
    }
)


@schemathesis.serializer(logbatch.CONTENT_TYPE)
def _packed(_: schemathesis.SerializationContext, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def operations(names: Mapping[str, Collection[str]]) -> dict[str, Operation]:
    """Every operation but the stream, by method and path; NAMES as in `fuzzed`."""
    schema = schemathesis.openapi.from_dict(fuzzed(names), config=CONFIG)
    found = (one for one in schema.get_all_operations() if isinstance(one, Ok))
    return {one.ok().label: one.ok() for one in found}
