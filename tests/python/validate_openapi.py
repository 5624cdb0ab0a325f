"""Checks an OpenAPI document with the `openapi-spec-validator` package.

Usage: validate_openapi.py FILE

Exit code 0: it is valid. Exit code 1: it is not; prints every error with its place. Exit code 2: there is no such file
or it is not JSON.
"""

import json
import sys
from pathlib import Path

from openapi_spec_validator import OpenAPIV30SpecValidator, OpenAPIV31SpecValidator, OpenAPIV32SpecValidator
from referencing.exceptions import Unresolvable

VALIDATORS = {"3.0": OpenAPIV30SpecValidator, "3.1": OpenAPIV31SpecValidator, "3.2": OpenAPIV32SpecValidator}


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        document = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"cannot read {sys.argv[1]}: {error}", file=sys.stderr)
        return 2
    version = str(document.get("openapi", "")) if isinstance(document, dict) else ""
    validator = VALIDATORS.get(version.rpartition(".")[0])
    if validator is None:
        print(f"not valid: `openapi` is {version!r}, not 3.0.x, 3.1.x or 3.2.x", file=sys.stderr)
        return 1
    found = 0
    try:
        for error in validator(document).iter_errors():
            place = "/".join(str(part) for part in error.absolute_path) or "(document)"
            print(f"not valid: {place}: {error.message[:500]}", file=sys.stderr)
            found += 1
    except Unresolvable as error:
        print(f"not valid: the reference {error.ref} leads nowhere", file=sys.stderr)
        found += 1
    if found:
        return 1
    print(f"valid: OpenAPI {version}, {len(document.get('paths', {}))} paths")
    return 0


if __name__ == "__main__":
    sys.exit(main())
