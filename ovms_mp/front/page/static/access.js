// SPDX-License-Identifier: Apache-2.0
// Requests to the server, with a key where it asks for one. Keys are in this module's memory and nowhere else.

let key = "";
let adminKey = "";
let asking = null;

/** Where the server's own paths begin, seen from the page. */
export const root = new URL("..", document.baseURI).href.replace(/\/$/, "");

/** Whether a key has been given. */
export function hasKey() {
  return Boolean(key);
}

/**
 * Ask the server, and the reader for a key where the server wants one. `admin`: the call changes the server.
 * A reader who gives none gets the server's refusal.
 */
export async function call(path, { admin = false, headers = {}, ...options } = {}) {
  for (;;) {
    const given = (admin && adminKey) || key;
    const sent = given ? { ...headers, Authorization: `Bearer ${given}` } : headers;
    const response = await fetch(root + path, { ...options, headers: sent, cache: "no-store", credentials: "same-origin" });
    const wantsAdmin = admin && response.status === 403 && (response.headers.get("WWW-Authenticate") ?? "").includes("scope");
    if (response.status !== 401 && !wantsAdmin) return response;
    if (given !== ((admin && adminKey) || key)) continue; // Another call has been given one meanwhile.
    // Whoever can change the server has been shown it: what is missing is an administrator's key.
    const answer = await ask(admin, Boolean(admin ? adminKey : key));
    if (answer === null) return response;
    if (admin) adminKey = answer;
    else key = answer;
  }
}

/** The reason that a refusal gives. */
export async function reasonOf(response) {
  try {
    const told = JSON.parse(await response.text());
    if (typeof told.error === "string") return told.error;
  } catch {
    // Not the server's own words; a proxy's perhaps.
  }
  return `the server answered ${response.status}`;
}

/** One dialog after the other; calls that want the same key wait for the same one. */
async function ask(isAdmin, isRefused) {
  while (asking !== null && asking.isAdmin !== isAdmin) await asking.answer;
  if (asking === null) {
    const answer = showDialog(isAdmin, isRefused).finally(() => {
      asking = null;
    });
    asking = { isAdmin, answer };
  }
  return asking.answer;
}

function showDialog(isAdmin, isRefused) {
  const dialog = document.getElementById("ask");
  const field = document.getElementById("ask-key");
  document.getElementById("ask-title").textContent = isAdmin ? "Administrator's API key" : "API key";
  const refused = isRefused ? "The server does not accept that key. " : "";
  document.getElementById("ask-why").textContent =
    refused + (isAdmin ? "This changes the server for everybody, and needs an administrator's key." : "This server asks for a key.");
  field.value = "";
  return new Promise((resolve) => {
    const end = (answer) => {
      field.value = "";
      dialog.close();
      dialog.oncancel = null;
      resolve(answer);
    };
    document.getElementById("ask-form").onsubmit = (event) => {
      event.preventDefault();
      end(field.value.trim() || null);
    };
    document.getElementById("ask-cancel").onclick = () => end(null);
    dialog.oncancel = (event) => {
      event.preventDefault();
      end(null);
    };
    dialog.showModal();
  });
}
