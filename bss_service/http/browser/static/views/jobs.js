// All jobs: search, state, and which to compare.

import { get, repeat } from "../api.js";
import { ago, count, el, link, NONE, percent, route, table } from "../dom.js";
import { compareRoute } from "./compare.js";

const LIVE = 15; // seconds since a trainer asked

export async function jobsView(content, { signal, failed }) {
  const search = el("input", { type: "search", id: "search", autocomplete: "off", oninput: () => show() });
  const state = el("select", { id: "state", onchange: () => show() }, ["all", "live", "quiet"].map((name) => el("option", { value: name }, name)));
  const compare = el("button", { type: "button", class: "main", disabled: true, onclick: () => (location.hash = compareRoute([...chosen])) }, "Compare");
  const list = el("div");
  const chosen = new Set();
  let answer;

  function show() {
    const word = search.value.trim().toLowerCase();
    const rows = answer.jobs.filter((job) => job.spec.name.toLowerCase().includes(word)).filter((job) => state.value === "all" || isLive(job) === (state.value === "live"));
    const focused = document.activeElement?.dataset?.job;
    list.replaceChildren(
      table(
        `${count(rows.length)} of ${count(answer.jobs.length)} jobs`,
        [
          ["Compare", (job) => choice(job.spec.name)],
          ["Job", (job) => link(route("jobs", job.spec.name), job.spec.name)],
          ["State", (job) => stateOf(job)],
          ["Policy", (job) => job.policy.policy.name],
          ["Step", (job) => stepOf(job), true],
          ["Accuracy", (job) => percent(job.validation?.accuracy), true],
          ["Weakest head", (job) => weakest(job.validation)],
          ["Wrong labels", (job) => (job.evidence ? `about ${percent(job.evidence.wrong_labels.share)}` : NONE), true],
        ],
        rows,
        answer.jobs.length ? "No job fits." : "No jobs yet. A training loop that creates a ScheduledBatchSampler makes one.",
      ),
      ...Object.entries(answer.unreadable).map(([name, why]) => el("p", { class: "bad" }, `${name} can't be read: ${why}`)),
    );
    if (focused !== undefined) [...list.querySelectorAll("input")].find((box) => box.dataset.job === focused)?.focus();
  }

  function choice(name) {
    const change = (event) => {
      if (event.target.checked) chosen.add(name);
      else chosen.delete(name);
      compare.disabled = chosen.size < 2;
    };
    return el("input", { type: "checkbox", "aria-label": `Compare ${name}`, "data-job": name, checked: chosen.has(name), onchange: change });
  }

  const isLive = (job) => (answer.heard[job.spec.name] ?? Infinity) < LIVE;
  const stateOf = (job) => {
    const silence = answer.heard[job.spec.name];
    if (isLive(job)) return el("span", { class: "badge live" }, "live");
    return el("span", { class: "badge" }, silence === undefined ? "quiet" : `quiet, ${ago(silence)}`);
  };

  content.append(
    el("h1", {}, "Jobs"),
    el("div", { class: "bar" }, el("div", {}, el("label", { for: "search" }, "Search"), search), el("div", {}, el("label", { for: "state" }, "State"), state), compare),
    list,
  );
  await repeat(3, signal, async () => {
    answer = await get("jobs", signal);
    show();
  }, failed);
}

export function stepOf(job) {
  return job.spec.horizon ? `${count(job.next_step)} of ${count(job.spec.horizon)}` : count(job.next_step);
}

function weakest(report) {
  const heads = Object.entries(report?.modalities ?? {});
  if (heads.length < 2) return NONE;
  const [name, of] = heads.reduce((least, head) => (head[1].accuracy < least[1].accuracy ? head : least));
  return `${name}, ${percent(of.accuracy)}`;
}
