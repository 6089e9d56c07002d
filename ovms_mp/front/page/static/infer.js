// SPDX-License-Identifier: Apache-2.0
// One inference by KServe's binary form, and where its time went.

import { call, reasonOf } from "./access.js";

const LENGTH = "Inference-Header-Content-Length";

/**
 * Run a version. `inputs`: name, dtype, shape and octets of each.
 * Gives `{outputs, stages, totalMs}`, with octets for each output, or raises with the server's reason.
 */
export async function infer(model, version, inputs) {
  const head = new TextEncoder().encode(
    JSON.stringify({
      inputs: inputs.map(({ name, dtype, shape, octets }) => ({
        name,
        datatype: dtype,
        shape,
        parameters: { binary_data_size: octets.length },
      })),
      parameters: { binary_data_output: true },
    }),
  );
  const begun = performance.now();
  const response = await ask(`/ui/try/v2/models/${encodeURIComponent(model)}/versions/${version}/infer`, {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream", [LENGTH]: String(head.length) },
    body: new Blob([head, ...inputs.map((input) => input.octets)]),
  });
  if (!response.ok) throw new Error(await reasonOf(response));
  const body = new Uint8Array(await response.arrayBuffer());
  const totalMs = performance.now() - begun;
  return { outputs: outputsOf(response, body), stages: stagesOf(response.headers.get("Server-Timing") ?? ""), totalMs };
}

async function ask(path, options) {
  try {
    return await call(path, options);
  } catch {
    throw new Error("the server cannot be reached");
  }
}

function outputsOf(response, body) {
  const length = Number(response.headers.get(LENGTH)) || body.length;
  const told = JSON.parse(new TextDecoder().decode(body.subarray(0, length)));
  let place = length;
  return told.outputs.map(({ name, datatype, shape, data, parameters }) => {
    const size = parameters?.binary_data_size;
    const octets = size === undefined ? null : body.subarray(place, (place += size));
    return { name, dtype: datatype, shape, data, octets };
  });
}

function stagesOf(header) {
  return header
    .split(",")
    .map((item) => item.trim().match(/^(\w+);dur=([\d.]+)$/))
    .filter(Boolean)
    .map(([, name, ms]) => ({ name, ms: Number(ms) }));
}
