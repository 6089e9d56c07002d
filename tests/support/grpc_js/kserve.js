// SPDX-License-Identifier: Apache-2.0
// Node's gRPC client with the .proto file of the protocol, as its users load it. Says a line of JSON for each case.
// usage: GRPC_ADDRESS=HOST:PORT node kserve.js PROTO
"use strict";
const assert = require("assert");
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [protoFile] = process.argv.slice(2);
const definition = loader.loadSync(protoFile, { keepCase: true, longs: String, defaults: true, oneofs: true });
const { inference } = grpc.loadPackageDefinition(definition);

const X = Float32Array.from({ length: 10 }, (_, index) => index);
const Y = X.map((value) => value + 1);
const raw = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength);

function request(changes) {
  return {
    model_name: "tiny",
    id: "one",
    inputs: [{ name: "x", datatype: "FP32", shape: [1, 10] }],
    raw_input_contents: [raw(X)],
    ...changes,
  };
}

const cases = {
  async health(ask) {
    assert.deepStrictEqual(await ask("ServerLive", {}), { live: true });
    assert.deepStrictEqual(await ask("ServerReady", {}), { ready: true });
    assert.deepStrictEqual(await ask("ModelReady", { name: "tiny" }), { ready: true });
  },
  async metadata(ask) {
    const model = await ask("ModelMetadata", { name: "tiny" });
    assert.deepStrictEqual(model.inputs, [{ name: "x", datatype: "FP32", shape: ["1", "10"] }]);
  },
  async raw(ask) {
    const answer = await ask("ModelInfer", request({}));
    assert.strictEqual(answer.id, "one");
    assert.deepStrictEqual(answer.outputs[0].shape, ["1", "10"]);
    assert.deepStrictEqual(answer.raw_output_contents[0], raw(Y));
  },
  async contents(ask) {
    const x = { name: "x", datatype: "FP32", shape: [1, 10], contents: { fp32_contents: Array.from(X) } };
    const answer = await ask("ModelInfer", request({ inputs: [x], raw_input_contents: [] }));
    const numbers = answer.outputs[0].contents ? answer.outputs[0].contents.fp32_contents : [];
    const found = answer.raw_output_contents.length ? answer.raw_output_contents[0] : raw(Float32Array.from(numbers));
    assert.deepStrictEqual(found, raw(Y));
  },
  async refusal(ask) {
    await assert.rejects(ask("ModelInfer", request({ model_name: "nobody" })), { code: grpc.status.NOT_FOUND });
  },
  async stream(_, client) {
    const call = client.ModelStreamInfer();
    const answers = [];
    const ended = new Promise((resolve, reject) => call.on("end", resolve).on("error", reject));
    call.on("data", (answer) => answers.push(answer));
    for (const id of ["a", "b", "c"]) call.write(request({ id }));
    call.end();
    await ended;
    assert.deepStrictEqual(answers.map((answer) => answer.infer_response.id), ["a", "b", "c"]);
    for (const answer of answers) assert.deepStrictEqual(answer.infer_response.raw_output_contents[0], raw(Y));
  },
};

async function main() {
  const client = new inference.GRPCInferenceService(process.env.GRPC_ADDRESS, grpc.credentials.createInsecure());
  const ask = (method, message) =>
    new Promise((resolve, reject) => {
      const settings = { deadline: Date.now() + 30000 };
      client[method](message, settings, (error, answer) => (error ? reject(error) : resolve(answer)));
    });
  for (const [name, run] of Object.entries(cases)) {
    let failure = "";
    try {
      await run(ask, client);
    } catch (error) {
      failure = error.stack || String(error);
    }
    process.stdout.write(JSON.stringify({ case: name, failure }) + "\n");
  }
  client.close();
}

main();
