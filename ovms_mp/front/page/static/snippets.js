// SPDX-License-Identifier: Apache-2.0
// Programs to copy, filled in for a model. Names may hold anything, so each language has them quoted its own way.

import { hasKey, root } from "./access.js";
import { h, mark, say } from "./dom.js";
import { plainValues, usualShape } from "./input.js";
import { sizeOf } from "./tensors.js";

const MOST_INLINE = 128;
const NUMPY = { BOOL: "np.bool_", FP16: "np.float16", FP32: "np.float32", FP64: "np.float64", BYTES: "object", BF16: "ml_dtypes.bfloat16" };

const text = (value) => JSON.stringify(value); // Python and JavaScript read JSON's strings as their own.
const shell = (value) => `'${value.replaceAll("'", "'\\''")}'`;
const numpy = (dtype) => NUMPY[dtype] ?? `np.${dtype.toLowerCase()}`;
const tuple = (shape) => `(${shape.join(", ")}${shape.length === 1 ? "," : ""})`;

function array({ dtype, shape }) {
  return dtype === "BYTES" ? `np.full(${tuple(shape)}, b"text", object)` : `np.zeros(${tuple(shape)}, ${numpy(dtype)})`;
}

function imports(inputs) {
  return inputs.some(({ dtype }) => dtype === "BF16") ? "import ml_dtypes\nimport numpy as np" : "import numpy as np";
}

function document_({ name, dtype, shape }) {
  return { name, datatype: dtype, shape, data: plainValues(dtype, shape) };
}

function curl({ path, inputs }) {
  const key = hasKey() ? ' -H "Authorization: Bearer $KEY"' : "";
  const url = shell(`${root}/v2/models/${path}/infer`);
  if (inputs.reduce((sum, input) => sum + sizeOf(input.shape), 0) <= MOST_INLINE) {
    return `curl${key} ${url} \\\n  -d ${shell(JSON.stringify({ inputs: inputs.map(document_) }))}`;
  }
  const items = inputs.map(({ name, dtype, shape }) => {
    const value = dtype === "BYTES" ? '["text"]' : dtype === "BOOL" ? "[False]" : "[0]";
    return `  {"name": ${text(name)}, "datatype": ${text(dtype)}, "shape": ${text(shape)}, "data": ${value} * ${sizeOf(shape)}},`;
  });
  return ["python3 - > request.json <<'END'", "import json", "print(json.dumps({\"inputs\": [", ...items, "]}))", "END", `curl${key} ${url} -d @request.json`].join("\n");
}

function python({ model, version, inputs, grpcUrl }) {
  const key = hasKey() ? ", api_key=KEY" : "";
  const items = inputs.map((input) => `    ${text(input.name)}: ${array(input)},`);
  return [
    imports(inputs),
    "",
    "from ovms_mp.client import Client",
    "",
    `with Client(${text(grpcUrl ?? root)}${key}) as client:`,
    `    outputs = client.predict(${text(model)}, {`,
    ...items.map((item) => `    ${item}`),
    `    }, version=${version})`,
    "",
    "for name, values in outputs.items():",
    "    print(name, values)",
  ].join("\n");
}

function triton({ model, version, inputs, outputs, target, isSecure }) {
  const bytes = (dtype) => (dtype === "BYTES" ? "object" : numpy(dtype));
  return [
    "# pip install 'tritonclient[grpc]'",
    imports(inputs),
    "import tritonclient.grpc as triton",
    "",
    `client = triton.InferenceServerClient(${text(target)}${isSecure ? ", ssl=True" : ""})`,
    "inputs = []",
    ...inputs.flatMap(({ name, dtype, shape }) => [
      `tensor = triton.InferInput(${text(name)}, ${text(shape)}, ${text(dtype)})`,
      `tensor.set_data_from_numpy(${dtype === "BYTES" ? array({ dtype, shape }) : `np.zeros(${tuple(shape)}, ${bytes(dtype)})`})`,
      "inputs.append(tensor)",
    ]),
    `result = client.infer(${text(model)}, inputs, model_version="${version}"${hasKey() ? ', headers={"authorization": f"Bearer {KEY}"}' : ""})`,
    ...outputs.map(({ name }) => `print(${text(name)}, result.as_numpy(${text(name)}))`),
  ].join("\n");
}

function tfs({ model, version, inputs, target, isSecure }) {
  const channel = isSecure ? `grpc.secure_channel(${text(target)}, grpc.ssl_channel_credentials())` : `grpc.insecure_channel(${text(target)})`;
  return [
    "# pip install tensorflow-serving-api",
    "import grpc",
    imports(inputs),
    "import tensorflow as tf",
    "from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc",
    "",
    "request = predict_pb2.PredictRequest()",
    `request.model_spec.name = ${text(model)}`,
    `request.model_spec.version.value = ${version}`,
    ...inputs.map((input) => `request.inputs[${text(input.name)}].CopyFrom(tf.make_tensor_proto(${array(input)}))`),
    `with ${channel} as channel:`,
    "    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)",
    `    response = stub.Predict(request, timeout=10${hasKey() ? ', metadata=[("authorization", f"Bearer {KEY}")]' : ""})`,
    "for name, tensor in response.outputs.items():",
    "    print(name, tf.make_ndarray(tensor))",
  ].join("\n");
}

function javascript({ path, inputs }) {
  const items = inputs.map(({ name, dtype, shape }) => {
    const value = dtype === "BYTES" ? '"text"' : dtype === "BOOL" ? "false" : "0";
    return `    { name: ${text(name)}, datatype: ${text(dtype)}, shape: ${text(shape)}, data: Array(${sizeOf(shape)}).fill(${value}) },`;
  });
  return [
    `const response = await fetch(${text(`${root}/v2/models/${path}/infer`)}, {`,
    '  method: "POST",',
    ...(hasKey() ? ["  headers: { Authorization: `Bearer ${KEY}` },"] : []),
    "  body: JSON.stringify({ inputs: [",
    ...items,
    "  ] }),",
    "});",
    "if (!response.ok) throw new Error((await response.json()).error);",
    "const { outputs } = await response.json();",
    "console.log(outputs);",
  ].join("\n");
}

/** The programs that suit a version, each with its title. */
export function programs(server, model, version) {
  const inputs = version.inputs.map((input) => ({ ...input, shape: usualShape(input) }));
  const host = location.hostname || "localhost";
  const target = `${host}:${server.grpc_port}`;
  const context = {
    model,
    version: version.version,
    path: `${encodeURIComponent(model)}/versions/${version.version}`,
    inputs,
    outputs: version.outputs,
    target,
    isSecure: server.is_secure,
    grpcUrl: server.grpc_port ? `${server.is_secure ? "grpcs" : "grpc"}://${target}` : null,
  };
  const found = [
    ["curl", curl(context)],
    ["Python", python(context)],
    ["JavaScript", javascript(context)],
  ];
  if (server.grpc_port) found.splice(2, 0, ["tritonclient", triton(context)], ["tensorflow-serving-api", tfs(context)]);
  return found;
}

/** Tabs with a program each; arrow keys go from one to the next. */
export class Snippets {
  constructor() {
    this.tabs = h("div", { role: "tablist", "aria-label": "Language", class: "tabs" });
    this.code = h("pre", { tabindex: "0", id: "program", role: "tabpanel" });
    this.copy = h("button", { type: "button", class: "copy", onclick: () => this.copyCode() }, "Copy");
    this.element = h("section", { "aria-labelledby": "snippets-title" }, h("div", { class: "heading" }, h("h2", { id: "snippets-title" }, "Call it")), h("div", { class: "bar-of-tabs" }, this.tabs, h("span", { class: "spring" }), this.copy), this.code);
    this.tabs.addEventListener("keydown", (event) => this.step(event));
  }

  show(found) {
    this.programs = found;
    this.buttons = found.map(([title], index) =>
      h("button", { type: "button", role: "tab", id: `tab-${index}`, "aria-controls": "program", onclick: () => this.select(index) }, title),
    );
    this.tabs.replaceChildren(...this.buttons);
    this.select(Math.max(0, Math.min(this.index ?? 0, found.length - 1)));
  }

  select(index) {
    this.index = index;
    this.buttons.forEach((button, each) => {
      const isOn = each === index;
      button.setAttribute("aria-selected", String(isOn));
      button.tabIndex = isOn ? 0 : -1;
      mark(button, "on", isOn);
    });
    this.code.setAttribute("aria-labelledby", `tab-${index}`);
    say(this.code, this.programs[index][1]);
    say(this.copy, "Copy");
  }

  step(event) {
    const steps = { ArrowRight: 1, ArrowLeft: -1 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.select((this.index + steps[event.key] + this.buttons.length) % this.buttons.length);
    this.buttons[this.index].focus();
  }

  async copyCode() {
    try {
      await navigator.clipboard.writeText(this.code.textContent);
      say(this.copy, "Copied");
    } catch {
      // Browsers have the clipboard on https and localhost only.
      getSelection().selectAllChildren(this.code);
      say(this.copy, "Selected: press Ctrl-C");
    }
  }
}
