// Verifies webhooks with the Standard Webhooks library for JavaScript: each as it came, and each with one byte changed.
const { readFileSync } = require("node:fs");
const { Webhook } = require(process.argv[3]);

let verified = 0;
let refused = 0;
for (const line of readFileSync(process.argv[2], "utf8").split("\n")) {
  const { secret, headers, body } = JSON.parse(line);
  const webhook = new Webhook(secret);
  webhook.verify(body, headers);
  verified += 1;
  try {
    webhook.verify(body.replace("{", "{ "), headers);
  } catch {
    refused += 1;
  }
}
console.log(`${verified} verified, ${refused} refused`);
