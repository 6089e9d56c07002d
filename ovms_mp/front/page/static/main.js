// SPDX-License-Identifier: Apache-2.0
// The page: hears events, shows the view that the address names, and what is the same for all views.

import { serverActions } from "./admin.js";
import { h, mark, order, say } from "./dom.js";
import { follow } from "./feed.js";
import { ModelView } from "./model.js";
import { Overview } from "./overview.js";
import { Store, keyOf, stateOf } from "./store.js";

const store = new Store();
const main = document.getElementById("main");
let view = null;
let states = null;
let isDrawing = false;

/** What the address names: `#model=NAME&version=N`, or nothing for the overview. */
function wanted() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const model = asked.get("model");
  return model === null ? null : { model, version: asked.get("version") ?? "" };
}

function show() {
  const asked = wanted();
  view = asked === null ? new Overview(store) : new ModelView(store, asked.model, asked.version);
  document.title = asked === null ? "ovms_mp" : `${asked.model} · ovms_mp`;
  order(main, [view.element]);
  view.update();
}

function showServer() {
  const server = store.state.server;
  say(document.getElementById("release"), server.version);
  const [word, tone] = server.is_draining
    ? ["Stopping", "bad"]
    : server.unready
      ? [`Not ready: ${server.unready}`, "busy"]
      : ["Ready", "good"];
  showStatus(word, tone);
  const refusal = store.state.refusal;
  showNotice(refusal ? `The configuration file is refused: ${refusal.reason}` : "");
}

function showStatus(word, tone) {
  const status = document.getElementById("status");
  for (const each of ["good", "busy", "bad"]) mark(status, each, each === tone);
  say(document.getElementById("status-text"), word);
}

function showNotice(text) {
  const notice = document.getElementById("notice");
  notice.hidden = !text;
  say(notice, text);
}

/** Wait until the reader, who has given no key, wants to. */
function declined() {
  return new Promise((resolve) => {
    const again = h("button", { type: "button" }, "Give an API key");
    again.addEventListener("click", () => {
      again.remove();
      resolve();
    });
    document.getElementById("actions").prepend(again);
  });
}

/** Say aloud which versions have changed, for those who do not see it. */
function announce() {
  const now = new Map(
    store.versions().map(({ model, version }) => [
      keyOf(model.name, version.version),
      `${model.name} version ${version.version}: ${stateOf(model, version).word}`,
    ]),
  );
  if (states !== null) {
    const told = [...now].filter(([key, text]) => states.get(key) !== text).map(([, text]) => text);
    if (told.length) say(document.getElementById("said"), told.slice(0, 3).join(". "));
  }
  states = now;
}

/** Show what is known, once a frame at most: not while the page is hidden, and once for all that came meanwhile. */
function draw() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => {
    isDrawing = false;
    if (view !== null) view.update();
  });
}

function hear(name, data) {
  if (name === "state" && store.state !== null && store.state.server.version !== data.server.version) {
    location.reload(); // The server has another release, which has a page of its own.
    return;
  }
  store.take(name, data);
  if (name === "state") {
    showServer();
    announce();
    if (view === null) {
      document.getElementById("actions").append(...serverActions(store));
      show();
      return;
    }
  }
  draw();
}

window.addEventListener("hashchange", () => {
  if (location.hash === "#main" || store.state === null) return;
  show();
  main.focus({ preventScroll: true });
  window.scrollTo(0, 0);
});
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
for (const name of ["dragover", "drop"]) {
  // A file that misses its place would be shown instead of this page.
  window.addEventListener(name, (event) => event.preventDefault());
}
follow(hear, (reason) => showStatus(`Reconnecting: ${reason}`, "bad"), declined);
