// SPDX-License-Identifier: Apache-2.0
// Obeys lines of JSON as tests/support/grpc_js.py sends them: one call each, one line back when it has ended.
"use strict";
const fs = require("fs");
const readline = require("readline");
const grpc = require("@grpc/grpc-js");

const same = (octets) => octets;
const clients = new Map();

function clientOf(command) {
  const key = JSON.stringify([command.port, command.options, command.ca]);
  if (!clients.has(key)) {
    const credentials = command.ca
      ? grpc.credentials.createSsl(fs.readFileSync(command.ca))
      : grpc.credentials.createInsecure();
    const options = {
      "grpc.max_receive_message_length": -1,
      "grpc.max_send_message_length": -1,
      ...command.options,
    };
    clients.set(key, new grpc.Client(`localhost:${command.port}`, credentials, options));
  }
  return clients.get(key);
}

function metadataOf(command) {
  const metadata = new grpc.Metadata({ waitForReady: Boolean(command.wait_for_ready) });
  for (const [name, value] of Object.entries(command.metadata || {})) {
    metadata.add(name, name.endsWith("-bin") ? Buffer.from(value, "base64") : value);
  }
  return metadata;
}

function obey(command, reply) {
  if (command.close) {
    for (const client of clients.values()) client.close();
    clients.clear();
    return reply({});
  }
  const client = clientOf(command);
  const settings = { deadline: Date.now() + command.timeout_ms };
  const bodies = command.bodies.map((text) => Buffer.from(text, "base64"));
  const end = (error, answers) =>
    reply({
      code: error ? error.code : 0,
      details: error ? error.details : "",
      bodies: answers.map((answer) => answer.toString("base64")),
    });
  if (!command.is_streaming) {
    const call = client.makeUnaryRequest(
      command.path, same, same, bodies[0], metadataOf(command), settings,
      (error, answer) => end(error, error ? [] : [answer]),
    );
    if (command.cancel_after_ms) setTimeout(() => call.cancel(), command.cancel_after_ms);
    return undefined;
  }
  const call = client.makeBidiStreamRequest(command.path, same, same, metadataOf(command), settings);
  const answers = [];
  let fault = null;
  call.on("data", (answer) => answers.push(answer));
  call.on("error", (error) => { fault = error; });
  call.on("status", () => setImmediate(() => end(fault, answers)));
  for (const body of bodies) call.write(body);
  return call.end();
}

const lines = readline.createInterface({ input: process.stdin });
lines.on("line", (line) => obey(JSON.parse(line), (answer) => process.stdout.write(JSON.stringify(answer) + "\n")));
lines.on("close", () => process.exit(0));
