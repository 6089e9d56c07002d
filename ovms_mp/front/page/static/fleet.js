// SPDX-License-Identifier: Apache-2.0
// The fleet that this server is part of, as its controller says; not there where there is none.

import { Rows, h, mark, order, say, stretch } from "./dom.js";
import { age, bytes, count, percent } from "./format.js";

const STALE_S = 10; // The controller tells every second or two.
const MOST_NAMED = 2;
const STATES = {
  pending: ["No place yet", "off"],
  starting: ["Starting", "busy"],
  ready: ["Ready", "good"],
  unready: ["Not ready", "bad"],
  draining: ["Draining", "busy"],
  ended: ["Ended", "bad"],
};

/** A field of a server: a cell that has its name beside it where there are no columns. */
function cell(name, properties, ...children) {
  return h("td", { role: "cell", ...properties }, h("span", { class: "field-name", "aria-hidden": "true" }, name), ...children);
}

class ModelTag {
  constructor() {
    this.name = h("bdi", { class: "held" });
    this.revision = h("span", { class: "code quiet" });
    this.note = h("span", { class: "why" });
    this.element = h("li", {}, this.name, " ", this.revision, " ", this.note);
  }

  update(model) {
    const isServed = model.served === model.revision;
    say(this.name, model.name);
    say(this.revision, model.served || "");
    const why = model.failure ? `${model.revision} fails: ${model.failure}` : isServed ? "" : `${model.revision} is loading`;
    say(this.note, why);
    mark(this.note, "alarming", Boolean(model.failure));
    mark(this.note, "waiting", !model.failure);
  }
}

/** Models of a server: those that are not as they should be, some others, and the rest on demand. */
class HeldModels {
  constructor() {
    this.first = h("ul", { class: "held-models" });
    this.rest = h("ul", { class: "held-models" });
    this.summary = h("summary");
    this.more = h("details", {}, this.summary, this.rest);
    this.none = h("span", { class: "quiet" }, "–");
    this.hint = h("span", { class: "quiet" });
    this.firstRows = new Rows(this.first, () => new ModelTag());
    this.restRows = new Rows(this.rest, () => new ModelTag());
    this.element = h("div", { class: "all-held" }, this.none, this.first, this.more, this.hint);
  }

  update({ models, hidden_models: hidden }) {
    const odd = models.filter((model) => model.failure || model.served !== model.revision).length;
    const named = Math.max(odd, models.length <= MOST_NAMED + 1 ? models.length : MOST_NAMED);
    const keyOf = (model) => model.name;
    this.firstRows.update(models.slice(0, named), keyOf);
    this.restRows.update(models.slice(named), keyOf);
    say(this.summary, `${models.length - named} more`);
    this.none.hidden = models.length + hidden > 0;
    this.first.hidden = !named;
    this.more.hidden = models.length === named;
    this.hint.hidden = !hidden;
    say(this.hint, models.length ? `and ${count(hidden)} that are not shown` : `${count(hidden)} models`);
  }
}

class ServerRow {
  constructor() {
    this.number = h("span", { class: "which" });
    this.isOwn = h("span", { class: "tag" }, "this page");
    this.place = h("bdi", { class: "place" });
    this.ports = h("span", { class: "ports quiet" });
    this.state = h("span", { class: "state" });
    this.revision = h("span", { class: "code" });
    this.isOld = h("span", { class: "tag" }, "old");
    this.load = h("span");
    this.bar = h("span", { class: "fill" });
    this.track = h("span", { class: "bar", "aria-hidden": "true" }, this.bar);
    this.queue = h("span");
    this.memory = h("span");
    this.models = new HeldModels();
    this.element = h(
      "tr",
      { role: "row" },
      h("th", { scope: "row", role: "rowheader" }, this.number, " ", this.isOwn),
      cell("State", {}, this.state),
      cell("Address", { class: "address" }, this.place, this.ports),
      cell("Revision", {}, this.revision, " ", this.isOld),
      cell("Utilisation", { class: "number use" }, this.load, this.track),
      cell("Waiting", { class: "number" }, this.queue),
      cell("Memory", { class: "number" }, this.memory),
      cell("Models", { class: "holds" }, this.models.element),
    );
  }

  update({ server, isOwn, wanted }) {
    const [word, tone] = STATES[server.state] ?? [server.state, "off"];
    say(this.number, `Server ${server.number}`);
    this.isOwn.hidden = !isOwn;
    say(this.place, server.host || "–");
    say(this.ports, server.port ? `:${server.port}, ${server.rest_port}` : "");
    say(this.state, word);
    this.state.className = `state ${tone}`;
    say(this.revision, server.revision || "–");
    this.isOld.hidden = !server.revision || server.revision === wanted;
    say(this.load, percent(server.utilisation));
    this.track.hidden = server.utilisation === null;
    stretch(this.bar, server.utilisation);
    mark(this.bar, "hot", server.utilisation > 0.9);
    say(this.queue, count(server.queue_depth));
    say(this.memory, bytes(server.used_bytes));
    this.models.update(server);
  }
}

/** How old the news is, and what is wrong with it. */
function freshness({ age_s: ageS, status, refusal }) {
  const refused = refusal ? `What the fleet tells cannot be read: ${refusal}.` : "";
  if (status === null) return [refused || "The fleet has told this server nothing yet.", Boolean(refused)];
  const asOf = `as of ${age(ageS)} ago`;
  if (refused) return [`${refused} Below is what was so ${age(ageS)} ago.`, true];
  return ageS > STALE_S ? [`${asOf}: the fleet's controller has told this server nothing since`, true] : [asOf, false];
}

function entryElement({ host, port, error }) {
  return error ? h("li", { class: "alarming" }, error) : h("li", { class: "code" }, h("bdi", {}, `${host}:${port}`));
}

export class Fleet {
  constructor(store) {
    this.store = store;
    this.shown = "";
    this.name = h("bdi");
    this.summary = h("span");
    this.age = h("span", { class: "quiet" });
    this.entries = h("ul", { class: "entries", "aria-labelledby": "fleet-entries" });
    this.notes = h("ul", { class: "fleet-notes", "aria-label": "What does not go as wanted" });
    this.hint = h("p", { class: "quiet" });
    this.body = h("tbody", { role: "rowgroup" });
    this.rows = new Rows(this.body, () => new ServerRow());
    this.address = h("div", { class: "entry" }, h("span", { class: "quiet", id: "fleet-entries" }, "Clients use"), this.entries);
    const head = (text, properties = {}) => h("th", { scope: "col", role: "columnheader", ...properties }, text);
    this.table = h(
      "div",
      { class: "scroll servers-scroll", tabindex: "0", role: "region", "aria-label": "Table of servers" },
      h(
        "table",
        { class: "servers", role: "table" },
        h("caption", { class: "unseen" }, "Servers of the fleet, with where they are, what they do and which models they have."),
        h(
          "thead",
          { role: "rowgroup" },
          h(
            "tr",
            { role: "row" },
            head("Server"),
            head("State"),
            head("Address", { title: "Machine, port for gRPC, port for REST" }),
            head("Revision", { title: "Of the flags and cores that it was started with" }),
            head("Utilisation", { class: "number", title: "Share of its time that it computes for" }),
            head("Waiting", { class: "number", title: "Requests that wait" }),
            head("Memory", { class: "number" }),
            head("Models", { title: "Each with the revision that answers" }),
          ),
        ),
        this.body,
      ),
    );
    this.element = h(
      "section",
      { "aria-labelledby": "fleet-title", hidden: true },
      h("div", { class: "heading" }, h("h2", { id: "fleet-title" }, "Fleet ", this.name), this.summary, this.age),
      this.address,
      this.notes,
      this.table,
      this.hint,
    );
  }

  update() {
    const fleet = this.store.sample?.fleet;
    this.element.hidden = !fleet;
    if (!fleet) return;
    const { status } = fleet;
    const [text, isAlarming] = freshness(fleet);
    say(this.age, text);
    mark(this.age, "alarming", isAlarming);
    this.address.hidden = this.table.hidden = this.summary.hidden = this.hint.hidden = status === null;
    this.notes.hidden = !status?.notes.length;
    if (status === null) return;
    say(this.name, status.fleet);
    const state = status.is_settled ? "" : ", changing";
    say(this.summary, `${count(status.ready)} of ${count(status.count)} server${status.count === 1 ? "" : "s"} ready, ${count(status.wanted)} wanted${state}`);
    this.showLists(status);
    const own = status.servers.find(({ host, port }) => port && host === fleet.host && port === fleet.port);
    this.rows.update(
      status.servers.map((server) => ({ server, isOwn: server === own, wanted: status.revision })),
      ({ server }) => server.number,
    );
    const hidden = status.count - status.servers.length;
    const hints = [
      hidden > 0 ? `${count(hidden)} more servers are not shown; \`ovms_mp fleet status\` has all.` : "",
      `All that follows is of ${own ? `server ${own.number}` : "one server"} only, which has answered this page.`,
    ];
    say(this.hint, hints.filter(Boolean).join(" "));
  }

  /** Addresses and notes, which change now and then. */
  showLists({ entries, notes }) {
    const known = JSON.stringify([entries, notes]);
    if (known === this.shown) return;
    this.shown = known;
    order(this.entries, entries.length ? entries.map(entryElement) : [h("li", { class: "alarming" }, "no address yet")]);
    order(this.notes, notes.map((note) => h("li", {}, note)));
  }
}
