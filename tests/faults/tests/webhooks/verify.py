"""Verifies webhooks with the Standard Webhooks library for Python: each as it came, and each with one byte changed."""

import json
import sys

from standardwebhooks import Webhook, WebhookVerificationError

verified = refused = 0
for line in open(sys.argv[1]):
    row = json.loads(line)
    webhook = Webhook(row["secret"])
    webhook.verify(row["body"], row["headers"])
    verified += 1
    try:
        webhook.verify(row["body"].replace("{", "{ ", 1), row["headers"])
    except WebhookVerificationError:
        refused += 1
print(f"{verified} verified, {refused} refused")
