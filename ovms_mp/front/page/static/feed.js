// SPDX-License-Identifier: Apache-2.0
// Server-sent events, read by fetch: EventSource cannot send a key.

import { call, reasonOf } from "./access.js";

const SILENT_MS = 10_000; // Seconds come each second; who says nothing for so long has gone.
const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 15_000;

/**
 * Read events for ever. `hear(name, data)` gets each, `lost(reason)` hears why there are none, and
 * `declined()` is waited for where the reader has not given the key that is asked for.
 */
export async function follow(hear, lost, declined) {
  let pauseMs = FIRST_PAUSE_MS;
  for (;;) {
    let reason = "the server has closed the connection";
    let isDeclined = false;
    try {
      const response = await call("/ui/events");
      if (response.ok) {
        await read(response.body.getReader(), (name, data) => {
          pauseMs = FIRST_PAUSE_MS;
          hear(name, data);
        });
      } else {
        isDeclined = response.status === 401;
        reason = await reasonOf(response);
      }
    } catch {
      reason = "the server cannot be reached";
    }
    lost(reason);
    if (isDeclined) {
      await declined();
      continue;
    }
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
    pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
  }
}

async function read(reader, hear) {
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { value, done } = await withinTime(reader);
    if (done) return;
    text += decoder.decode(value, { stream: true });
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) tell(block, hear);
  }
}

async function withinTime(reader) {
  let timer;
  const silence = new Promise((_, reject) => {
    timer = setTimeout(() => {
      reader.cancel();
      reject(new Error("silent"));
    }, SILENT_MS);
  });
  try {
    return await Promise.race([reader.read(), silence]);
  } finally {
    clearTimeout(timer);
  }
}

function tell(block, hear) {
  let name = "";
  let data = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data = line.slice(6);
  }
  if (name) hear(name, JSON.parse(data));
}
