"""Verifies a webhook with the `standardwebhooks` package, as a receiver would.

Reads a JSON object from standard input:

    {"secret": "whsec_…", "headers": {"webhook-id": "…", …}, "body": "…"}

`body` is the request's body, verbatim. Exit code 0: the signature fits; prints the body's `type`. Exit code 1: it
does not; prints why. Exit code 2: the input is not as above.
"""

import json
import sys

from standardwebhooks.webhooks import Webhook, WebhookVerificationError


def main() -> int:
    try:
        given = json.load(sys.stdin)
        secret, headers, body = given["secret"], given["headers"], given["body"]
    except (ValueError, KeyError, TypeError) as error:
        print(f"bad input: {error!r}", file=sys.stderr)
        return 2
    # HTTP header names are the same in any case; the package looks for lower case.
    headers = {name.lower(): value for name, value in headers.items()}
    try:
        event = Webhook(secret).verify(body, headers)
    except WebhookVerificationError as error:
        print(f"not verified: {error}", file=sys.stderr)
        return 1
    print(f"verified: {event['type']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
