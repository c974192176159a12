// Samples: which are suspect, and why one was drawn.

import { blob, get, path } from "../api.js";
import { count, el, facts, link, NONE, number, percent, route, section, table } from "../dom.js";

const PAGE = 25;
const ORDERS = { label: "label least likely right", pair: "pair least likely right", loss: "highest loss", draws: "drawn most often" };

export async function suspectsView(content, { parts: [name], query, signal, failed }) {
  const order = query.get("order") in ORDERS ? query.get("order") : "label";
  const start = Math.max(0, Number.parseInt(query.get("start"), 10) || 0);
  const here = route("jobs", name, "samples");
  const go = (changes) => (location.hash = `${here}?${new URLSearchParams({ order, start, ...changes })}`);
  const choose = el("select", { id: "order", onchange: (event) => go({ order: event.target.value, start: 0 }) }, Object.entries(ORDERS).map(([key, text]) => el("option", { value: key, selected: key === order }, text)));
  content.append(
    el("nav", { class: "trail", "aria-label": "Breadcrumb" }, link("/", "All jobs"), " › ", link(route("jobs", name), name)),
    el("h1", {}, "Suspect samples"),
    el("div", { class: "bar" }, el("div", {}, el("label", { for: "order" }, "First those with the"), choose), el("button", { type: "button", onclick: () => download(name, order).catch(failed) }, "Download CSV"), goTo(name)),
  );
  const job = path("jobs", name);
  let listed;
  try {
    listed = await get(`${job}/samples?order=${order}&limit=${PAGE}&start=${start}`, signal);
  } catch (error) {
    if (error.status !== 422) throw error;
    content.append(el("p", { class: "empty" }, error.message));
    return;
  }
  const about = await descriptions(job, signal);
  const heads = Object.keys(listed.samples.find((row) => row.evidence)?.evidence.predicted ?? {});
  const of = (pick) => (row) => (row.evidence ? pick(row.evidence) : NONE);
  content.append(
    table(
      listed.known ? `Samples ${count(start + 1)} to ${count(start + listed.samples.length)} of ${count(listed.known)}, as the plan before step ${count(listed.step)} knew them` : "Samples",
      [
        ["Sample", (row) => link(route("jobs", name, "samples", row.index), String(row.index))],
        ["Shows", (row) => describe(job, row.index, about, "thumb", signal)],
        ["Given label", of((e) => e.label), true],
        ["Likeliest other", of((e) => e.likeliest), true],
        ["Label right", of((e) => percent(e.right)), true],
        ["Other right", of((e) => percent(e.rival)), true],
        ["Pair right", of((e) => percent(e.pair)), true],
        ...heads.map((head) => [`${head} says`, of((e) => e.predicted[head] ?? NONE), true]),
        ["Loss", (row) => number(row.loss), true],
        ["Draws", (row) => count(row.draws), true],
        ["Measured at step", (row) => count(row.last_measured), true],
      ].filter(([title]) => title !== "Shows" || about.size),
      listed.samples,
      listed.known ? "There are no more." : "Nothing is known of the samples yet.",
    ),
    el(
      "div",
      { class: "bar" },
      el("button", { type: "button", disabled: start === 0, onclick: () => go({ start: Math.max(0, start - PAGE) }) }, "Previous"),
      el("button", { type: "button", disabled: start + PAGE >= listed.known, onclick: () => go({ start: start + PAGE }) }, "Next"),
    ),
  );
}

// By its number, whether it is suspect or not.
function goTo(name) {
  const index = el("input", { type: "number", id: "index", min: 0, step: 1, required: true });
  const form = el("form", { class: "bar" }, el("div", {}, el("label", { for: "index" }, "Sample number"), index), el("button", {}, "Show"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = route("jobs", name, "samples", index.value);
  });
  return form;
}

export async function sampleView(content, { parts: [name, index], signal }) {
  const job = path("jobs", name);
  const [sample, state, lines, about] = await Promise.all([
    get(`${job}/samples/${index}?draws=50`, signal),
    get(job, signal),
    get(`${job}/series?of=validation`, signal),
    descriptions(job, signal),
  ]);
  const policy = (version) => lines.versions.find((known) => known.policy_version === version)?.policy.name ?? NONE;
  const known = sample.evidence;
  const plain = 1 / state.spec.samples;
  content.append(
    el("nav", { class: "trail", "aria-label": "Breadcrumb" }, link("/", "All jobs"), " › ", link(route("jobs", name), name), " › ", link(route("jobs", name, "samples"), "Suspect samples")),
    el("h1", {}, `Sample ${index}`),
    describe(job, Number(index), about, "big", signal),
    section(
      "Is it right?",
      known
        ? facts([
            ["Given label", known.label],
            ["Likeliest other", `${known.likeliest}, with ${percent(known.rival)}`],
            ["Label right", percent(known.right)],
            ["Pair right", percent(known.pair)],
            ...Object.entries(known.predicted).map(([head, label]) => [`${head} says`, label]),
            ...Object.entries(known.wrong_modality).map(([head, share]) => [`${head} is another's`, percent(share)]),
          ].map(([key, value]) => [key, String(value)]))
        : el("p", { class: "empty" }, "No evidence: the sample was not visited yet, or the job does not send the signals of evidence."),
    ),
    section(
      "Why was it drawn?",
      el("p", {}, reason(sample, policy, plain)),
      table(
        "Latest draws, newest first; the probability of a probe is that among those left out",
        [
          ["Step", (draw) => count(draw.step), true],
          ["Policy", (draw) => `${policy(draw.policy_version)} v${draw.policy_version}`],
          ["Probability", (draw) => number(draw.probability), true],
          ["Against plain shuffling", (draw) => (draw.probe ? NONE : `${number(draw.probability / plain)} ×`), true],
          ["Used", (draw) => (draw.probe ? "looked at" : "trained on")],
        ],
        sample.draws,
        "It was not drawn yet.",
      ),
    ),
    section(
      "What was measured",
      facts([
        ["Measured", `${count(sample.times_measured)} times${sample.last_measured === null ? "" : `, last with step ${count(sample.last_measured)}`}`],
        ["Balance score, moving average", number(sample.balance_score)],
        ["First score", number(sample.first_score)],
        ...Object.entries(sample.signals).flatMap(([signal, value]) =>
          value !== null && typeof value === "object" ? Object.entries(value).map(([head, of]) => [`${signal}, ${head}`, number(of)]) : [[signal, number(value)]],
        ),
      ]),
    ),
  );
}

function reason(sample, policy, plain) {
  const [draw] = sample.draws;
  if (draw === undefined) return "It was not drawn yet.";
  const score = sample.balance_score === null ? "" : ` Its balance score is ${number(sample.balance_score)} (similarity of the heads minus loss, both scaled to 0…1).`;
  if (draw.probe) return `Its evidence leaves it out of training. At step ${count(draw.step)} ${policy(draw.policy_version)} v${draw.policy_version} drew it as a probe, to look at it again with weight 0: with probability ${number(draw.probability)} among those left out.${score}`;
  return `Drawn last at step ${count(draw.step)} by ${policy(draw.policy_version)} v${draw.policy_version}, with probability ${number(draw.probability)}: ${number(draw.probability / plain)} times that of a plain draw among all samples.${score}`;
}

async function download(name, order) {
  const file = URL.createObjectURL(await blob(`${path("jobs", name)}/samples?order=${order}&limit=10000&format=csv`));
  el("a", { href: file, download: `${name}-${order}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(file), 10_000);
}

// What a trainer told of samples, by index: "text" or "picture".
async function descriptions(job, signal) {
  const known = await get(`${job}/descriptions`, signal);
  return new Map(known.descriptions.map((one) => [one.index, one.kind]));
}

function describe(job, index, about, kind, signal) {
  const holder = el("div", { class: "about" });
  if (!about.has(index)) return holder;
  blob(`${job}/samples/${index}/description`, signal)
    .then(async (body) => {
      if (about.get(index) === "text") {
        holder.textContent = await body.text();
        return;
      }
      const file = URL.createObjectURL(body);
      signal.addEventListener("abort", () => URL.revokeObjectURL(file));
      holder.append(el("img", { class: kind, src: file, alt: `What sample ${index} shows` }));
    })
    .catch(() => {});
  return holder;
}
