// SPDX-License-Identifier: Apache-2.0
// What changes the server: reload, load, unload. The server decides who may.

import { call, reasonOf } from "./access.js";
import { h, mark, say } from "./dom.js";

class Actions {
  constructor() {
    this.outcome = h("output", { class: "outcome" });
  }

  /** A button that makes a call which changes the server, and has what came of it said beside it. */
  button(text, path, question = "") {
    const button = h("button", { type: "button" }, text);
    button.addEventListener("click", async () => {
      if (question && !confirm(question)) return;
      button.disabled = true;
      say(this.outcome, `${text}…`);
      const refused = await change(path);
      button.disabled = false;
      mark(this.outcome, "alarming", Boolean(refused));
      say(this.outcome, refused || `${text}: done`);
    });
    return button;
  }
}

async function change(path) {
  try {
    const response = await call(path, { method: "POST", admin: true });
    return response.ok ? "" : await reasonOf(response);
  } catch {
    return "the server cannot be reached";
  }
}

/** Those of the whole server. */
export function serverActions(store) {
  if (!store.state.server.may_change) return [];
  const actions = new Actions();
  return [actions.outcome, actions.button("Reload", "/v1/config/reload")];
}

/** Those of a model. */
export function modelActions(store, name) {
  if (!store.state.server.may_change) return [];
  const actions = new Actions();
  const path = `/v2/repository/models/${encodeURIComponent(name)}`;
  return [
    actions.outcome,
    actions.button("Load", `${path}/load`),
    actions.button("Unload", `${path}/unload`, `Unload all versions of ${name}?`),
  ];
}
