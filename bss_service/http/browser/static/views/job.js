// One job: is it learning, which head is weak, what does the policy do and why, what is known of the samples, how fast.

import { get, path, repeat } from "../api.js";
import { contents, count, el, facts, link, NONE, number, percent, points, route, section, sentence, shown, signed, table } from "../dom.js";
import { bars, heat, lines } from "../plots.js";
import { compareRoute, comparison } from "./compare.js";
import { endShadow, swap } from "./dialogs.js";
import { stepOf } from "./jobs.js";

const DECISIONS = 20; // shown at once

export async function jobView(content, { parts: [name], signal, failed, scope }) {
  const job = path("jobs", name);
  const look = (what) => get(`${job}/${what}`, signal);
  let state = await get(job, signal);

  const summary = el("div");
  const helping = el("div");
  const swaps = el("div");
  const weak = el("p");
  const accuracy = lines("Validation accuracy of each head", { unit: "accuracy (%)", percent: true, policies: true, empty: "No validation was reported yet." });
  const probability = lines("What each head gives to the right label in validation", { unit: "probability", low: 0, empty: "No head was reported yet." });
  const loss = lines("Validation loss", { unit: "loss (nat)", empty: "No validation was reported yet." });
  const balance = lines("Balance of the modalities at each plan", { unit: "balance (0 to 1)", empty: "No validation before a plan yet." });
  const metric = METRICS[state.spec.reward.metric] ?? METRICS.loss;
  const reward = lines("Reward of each plan", { unit: "reward", empty: "No plan was rewarded yet: rewards come with validation reports." });
  const gain = lines(metric.title, { ...metric.options, empty: "No plan was rewarded yet: rewards come with validation reports." });
  const action = lines("What the policy set, where it is not plain shuffling", { unit: "coefficient", empty: "Plain shuffling throughout." });
  const left = lines("Left out of each plan", { unit: "samples (%)", percent: true, low: 0 });
  const propensity = lines("How likely each choice was", { unit: "propensity", low: 0 });
  const training = lines("Probability of the right label in training, joint head", { unit: "probability", low: 0, high: 1 });
  const similarity = lines("Similarity of the heads in training", { unit: "cosine" });
  const wrong = lines("Estimated wrong labels and pairs", { unit: "samples (%)", percent: true, low: 0, empty: "The job does not send the signals of evidence, or nothing is known yet." });
  const stale = lines("How old what is known of the samples is", { unit: "age (epochs)", low: 0 });
  const speed = lines("Speed", { unit: "steps/s", xUnit: "s", low: 0, empty: "No step was handed out since the service started." });
  const waits = lines("What requests for the next interval waited for", { unit: "share of time (%)", percent: true, xUnit: "s", low: 0, empty: "No step was handed out since the service started." });
  const estimates = el("div");
  const decisions = el("div");
  const samples = el("div", { class: "pair" });
  const policy = el("div");

  const sections = [
    section("Is it helping?", helping),
    section("Is it learning?", weak, accuracy.element, el("div", { class: "pair" }, loss.element, probability.element, balance.element)),
    section("What did the swaps do?", swaps),
    section("The policy", policy, el("div", { class: "pair" }, gain.element, reward.element, action.element, left.element, propensity.element), decisions),
    section("Labels and pairs", estimates, wrong.element),
    section("Samples", samples, el("div", { class: "pair" }, training.element, similarity.element, stale.element)),
    section("Speed and waits", el("p", { class: "muted" }, "Since the service has the job in memory. Held: rank 0 asked for the next interval before all that belongs to it had come."), el("div", { class: "pair" }, speed.element, waits.element)),
  ];
  content.append(
    el("nav", { class: "trail", "aria-label": "Breadcrumb" }, link("/", "All jobs")),
    el("h1", {}, name),
    summary,
    contents(sections, link(route("jobs", name, "samples"), "Which samples are suspect?")),
    ...sections,
  );

  function showState() {
    const validation = state.validation;
    summary.replaceChildren(
      facts([
        ["Step", stepOf(state)],
        ["Epoch", count(state.epoch)],
        ["Samples", `${count(state.spec.samples)} in batches of ${count(state.spec.batch_size)}`],
        ["Modalities", state.spec.modalities.join(", ")],
        ["Measured", `${count(state.samples_measured)} samples`],
        ["Fed back", `${count(state.steps_fed_back)} steps`],
        ["Accuracy, joint", validation ? `${percent(validation.accuracy)} at step ${count(validation.step)}` : NONE],
        ["Trainers", state.trainers.length ? `${state.trainers.filter((t) => !t.left).length} of ${state.trainers.length} there` : NONE],
      ]),
    );
    showPolicy();
    const known = state.evidence;
    estimates.replaceChildren(
      known
        ? facts([
            ["Wrong labels", estimate(known.wrong_labels)],
            ["Wrong pairs", estimate(known.wrong_pairs)],
            ["Left out", `${count(known.left_out)} samples from step ${count(known.step)} on`],
          ])
        : el("p", { class: "empty" }, "Nothing is estimated yet."),
    );
  }

  let policyShown = null;
  function showPolicy() {
    const told = JSON.stringify([state.policy, state.pending_policy, state.shadow]);
    if (told === policyShown) return; // or a button would lose the focus at each look
    policyShown = told;
    const refresh = async () => {
      state = await get(job, signal);
      showState();
    };
    policy.replaceChildren(
      facts([
        ["In force", policyText(state.policy)],
        ["Next", state.pending_policy ? policyText(state.pending_policy) : "no swap to come"],
        ["Shadow", state.shadow ? policyText(state.shadow, "watches") : "none"],
      ]),
      scope === "admin"
        ? el(
            "div",
            { class: "bar" },
            el("button", { type: "button", onclick: () => swap(name, state, false, refresh) }, "Swap policy…"),
            el("button", { type: "button", onclick: () => swap(name, state, true, refresh) }, "Put shadow…"),
            state.shadow && el("button", { type: "button", onclick: () => endShadow(name, state, refresh) }, "End shadow…"),
          )
        : el("p", { class: "muted" }, `A token of scope admin may swap the policy; this one is of scope ${scope}.`),
    );
  }

  const drawn = new Map();
  function changed(what, answer) {
    const same = drawn.get(what) === answer;
    drawn.set(what, answer);
    return !same;
  }

  async function showValidation() {
    const answer = await look("series?of=validation");
    if (!changed("validation", answer)) return;
    const of = (name) => answer.series.filter((line) => line.name === name).map((line) => ({ label: line.head, values: line.values }));
    accuracy.show(answer.x, of("accuracy"), answer.versions);
    probability.show(answer.x, of("probability"), answer.versions);
    loss.show(answer.x, of("loss"), answer.versions);
    weak.textContent = weakest(answer);
    swaps.replaceChildren(stretches(answer));
  }

  async function showDecisions() {
    const answer = await look("series?of=decisions");
    if (!changed("decisions", answer)) return;
    const by = Object.fromEntries(answer.series.map((line) => [line.name, line.values]));
    const line = (label, values) => ({ label, values });
    const show = (plot, ...rows) => plot.show(answer.x, rows, answer.versions);
    const inverse = (values) => values.map((value) => (value === null ? null : 1 - value));
    show(reward, line("reward", by.reward));
    show(gain, line("gain", by.gain));
    const plain = { kappa_similarity: 0, kappa_loss: 0, kappa_weak: 0, kappa_stale: 0, share: 1, belief: 0, probes: 0, pull: 0 };
    show(action, ...Object.entries(plain).filter(([key, usual]) => by[key].some((value) => value !== usual)).slice(0, 6).map(([key]) => line(key.replaceAll("_", " "), by[key])));
    show(left, line("left out", by.left_out_share));
    show(propensity, line("propensity", by.propensity));
    show(balance, line("balance", by.validation_balance));
    show(training, ...quantiles("training_probability", by));
    show(similarity, ...quantiles("similarity", by));
    show(wrong, line("wrong labels", inverse(by.right_labels)), line("wrong pairs", inverse(by.right_pairs)));
    show(stale, line("mean age", by.staleness));
    await showLatest();
  }

  async function showLatest() {
    const { total } = await look("decisions?start=0&count=1");
    const start = Math.max(0, total - DECISIONS);
    const log = await look(`decisions?start=${start}&count=${DECISIONS}`);
    const rows = log.decisions.map((decision, k) => ({ ...decision, number: start + k })).reverse();
    const open = new Set([...decisions.querySelectorAll("details[open]")].map((one) => one.dataset.number));
    decisions.replaceChildren(
      table(
        `The latest ${count(rows.length)} of ${count(total)} decisions`,
        [
          ["Steps", (d) => `${count(d.first_step)}–${count(d.end_step - 1)}`],
          ["Policy", (d) => `${d.policy} v${d.policy_version}`],
          ["Chose", (d) => chose(d)],
          ["Propensity", (d) => number(d.propensity), true],
          ["Left out", (d) => count(d.left_out), true],
          [metric.column, (d) => metric.text(d.gain), true],
          ["Reward", (d) => signed(d.reward), true],
          ["Shadow would", (d) => (d.shadow ? `${d.shadow.policy}: ${settings(d.shadow)}` : NONE)],
          ["Why", (d) => why(d, open.has(String(d.number)))],
        ].filter(([title]) => title !== "Shadow would" || rows.some((d) => d.shadow)),
        rows,
        "No interval was planned yet.",
      ),
    );
  }

  async function showSamples() {
    const [density, found] = await Promise.all([look("density"), look("histograms")]);
    const both = [changed("density", density), changed("histograms", found)];
    if (!both.includes(true)) return;
    const figures = [heat("Samples over similarity and loss", density, `As the plan before step ${count(density.step)} knew them; darker cells hold more samples.`)];
    for (const one of found.histograms.filter((histogram) => TITLES[histogram.name])) {
      const [title, unit] = TITLES[one.name];
      figures.push(bars(title, unit, one.edges, one.counts, spread(one)));
    }
    samples.replaceChildren(...figures);
  }

  async function showPace() {
    const answer = await look("series?of=pace");
    if (!changed("pace", answer)) return;
    const [steps, held, planned] = answer.series.map((line) => line.values);
    speed.show(answer.x, [{ label: "steps handed out", values: steps }]);
    waits.show(answer.x, [{ label: "held", values: held }, { label: "planning", values: planned }]);
  }

  let control; // the name of the job that this one is compared with
  let basis = []; // what the comparison rests on
  async function showHelp() {
    control ??= await controlOf(state, signal);
    const reports = (one) => get(`${path("jobs", one)}/series?of=validation`, signal);
    const now = control === undefined ? [state.validation?.step] : await Promise.all([name, control].map(reports));
    if (now.length === basis.length && now.every((one, k) => one === basis[k])) return;
    basis = now;
    helping.replaceChildren(...(await help(state, control, signal)));
  }

  const rest = () => Promise.all([showHelp(), showDecisions(), showSamples(), showPace()]);
  showState();
  await repeat(3, signal, async () => {
    state = await get(job, signal);
    showState();
    await showValidation();
    await rest();
  }, failed);
}

const METRICS = {
  accuracy: { title: "What each plan gained in validation accuracy", column: "Points", options: { unit: "gain (points)", points: true }, text: points },
  loss: { title: "By how much the validation loss fell with each plan", column: "Loss less", options: { unit: "loss less" }, text: signed },
};

const TITLES = {
  draws: ["Coverage: how often samples were drawn", "times drawn and measured"],
  staleness: ["Staleness: when samples were measured last", "steps ago"],
  loss: ["Loss", "nat"],
  right: ["How likely labels are right", "probability"],
  pair: ["How likely pairs are right", "probability"],
};

function spread({ name, counts, edges, unknown }) {
  const known = counts.reduce((sum, value) => sum + value, 0);
  if (name === "draws") return `${count(edges[0] === 0 && edges[1] === 1 ? counts[0] : 0)} samples never, of ${count(known)}.`;
  return `${count(known)} samples${unknown ? `, not known of ${count(unknown)}` : ""}.`;
}

function estimate({ share, low, high }) {
  return `about ${percent(share)} (${percent(low)} to ${percent(high)})`;
}

function quantiles(name, by) {
  return [[90, "9 of 10 below"], [50, "median"], [10, "1 of 10 below"]].map(([q, label]) => ({ label, values: by[`${name}_q${q}`] }));
}

function policyText({ policy, policy_version: version, first_step: step }, verb = "draws") {
  const given = Object.entries(policy.parameters).map(([key, value]) => `${key} ${shown(value)}`).join(", ");
  return `${policy.name} v${version}, ${verb} from step ${count(step)} on${given ? ` (${given})` : ""}`;
}

function chose(choice) {
  const text = settings(choice);
  return choice.detail.error === undefined ? text : el("span", { class: "bad" }, text);
}

function settings({ action, detail }) {
  if (detail.error !== undefined) return `plain shuffling, the policy failed: ${shown(detail.error)}`;
  if (detail.arm !== undefined) return shown(detail.arm);
  const usual = { kappa_similarity: 0, kappa_loss: 0, kappa_weak: 0, kappa_stale: 0, share: 1, floor: 0, ema: 0.6, link: "exponential", coverage: "epoch", rank_by: "balance", keep: "top", belief: 0, left_out: 1, probes: 0, pull: 0, wrong_pairs: "keep" };
  const other = Object.entries(action).filter(([key, value]) => value !== usual[key]);
  return other.length ? other.map(([key, value]) => `${key} ${shown(value)}`).join(", ") : "plain shuffling";
}

function why(decision, open) {
  const rows = [...Object.entries(decision.detail), ...Object.entries(decision.observation)];
  const body = el("div");
  const fill = () => {
    if (body.childNodes.length) return;
    body.append(
      table(
        `What ${decision.policy} saw before step ${decision.first_step}`,
        [["Field", ([key]) => key.replaceAll("_", " ")], ["Value", ([, value]) => shown(value), true]],
        rows,
        "Nothing.",
      ),
    );
  };
  const details = el("details", { "data-number": decision.number, open, ontoggle: fill }, el("summary", { "aria-label": `What was seen before step ${decision.first_step}` }, "seen"), body);
  if (open) fill();
  return details;
}

function weakest({ x, series }) {
  const heads = series.filter((line) => line.name === "accuracy" && line.head !== "joint");
  if (heads.length < 2 || !x.length) return heads.length < 2 ? "The job has no heads to compare." : "No validation was reported yet.";
  const at = (k) => heads.reduce((least, head) => (head.values[k] !== null && head.values[k] < (least?.values[k] ?? Infinity) ? head : least), null);
  const now = at(x.length - 1);
  if (now === null) return "No head was reported yet.";
  let since = x.length - 1;
  while (since > 0 && at(since - 1) === now) since -= 1;
  const best = Math.max(...heads.map((head) => head.values.at(-1) ?? 0));
  return `The weakest modality is ${now.head}, since the report of step ${count(x[since])}: ${percent(now.values.at(-1))} where the strongest has ${percent(best)}.`;
}

const PLAIN = "uniform";
const ALIKE = ["samples", "batch_size", "tail", "horizon", "seed"]; // or two jobs are no pair
const isPlain = ({ spec, policy }) => spec.policy.name === PLAIN && policy.policy.name === PLAIN && policy.policy_version === 1;

// The job that trains as this one does, but with plain shuffling; of a plain one, that with another policy.
async function controlOf(state, signal) {
  const { jobs } = await get("jobs", signal);
  const alike = (job) => ALIKE.every((field) => job.spec[field] === state.spec[field]) && String(job.spec.modalities) === String(state.spec.modalities);
  const pairs = jobs.filter((job) => job.spec.name !== state.spec.name && job.validation && alike(job) && isPlain(job) !== isPlain(state));
  const named = pairs.find((job) => job.spec.name === `${state.spec.name}-control` || state.spec.name === `${job.spec.name}-control`);
  return (named ?? pairs[0])?.spec.name;
}

async function help(state, control, signal) {
  const { name } = state.spec;
  if (control === undefined || !state.validation) return alone(state);
  const pair = [name, control];
  try {
    const told = await comparison(pair, signal);
    return [
      el("p", { class: "lead" }, sentence(told.sentence)),
      el("p", {}, "Compared with ", link(route("jobs", control), control), ", which has the same seed and data. ", link(compareRoute(pair), "See both")),
    ];
  } catch (error) {
    if (error.status !== 422) throw error;
    return [el("p", { class: "lead" }, "Nothing can be said yet."), el("p", {}, error.message)];
  }
}

function alone(state) {
  const { name } = state.spec;
  if (isPlain(state)) return [el("p", {}, `${PLAIN} is what other policies are compared with: there is no job with another policy of the same seed and data yet.`)];
  if (!state.validation) return [el("p", {}, "No validation was reported yet, and nothing else can tell.")];
  return [
    el("p", { class: "lead" }, "One run alone can’t tell."),
    el("p", {}, "What it says is how accurate the heads are, what was left out and which labels look wrong: all below. Whether the policy is the cause takes a run that differs in nothing but plain shuffling. This prints its spec, with the same seed:"),
    el("p", {}, el("code", { class: "command" }, `bss control ${name}`)),
    el("p", {}, "Train it as this one was trained; the verdict with its interval then stands here."),
  ];
}

// What became of each head while a policy drew: from the last report before it to the last of its own.
function stretches({ x, series, versions }) {
  if (versions.length < 2) return el("p", { class: "empty" }, "The policy was not swapped.");
  const heads = series.filter((line) => line.name === "accuracy");
  const rows = versions
    .map((version, k) => ({ version, until: versions[k + 1]?.first_step ?? Infinity }))
    .filter(({ version, until }) => until > version.first_step)
    .map(({ version, until }) => {
      const within = x.map((step, at) => [step, at]).filter(([step]) => step > version.first_step && step <= until);
      const before = x.findLastIndex((step) => step <= version.first_step);
      return { version, until, from: before < 0 ? within[0]?.[1] : before, to: within.at(-1)?.[1], reports: within.length };
    });
  const course = (values, { from, to }) => {
    const [first, last] = [values[from], values[to]];
    if (to === undefined || last === null || last === undefined) return NONE;
    return first === null || first === undefined || from === to ? percent(last) : `${percent(first)} → ${percent(last)} (${points(last - first)})`;
  };
  return el(
    "div",
    {},
    table(
      "Accuracy from the last validation before a policy took over to the last while it drew, the difference in points",
      [
        ["Policy", ({ version }) => `${version.policy.name} v${version.policy_version}`],
        ["Steps", ({ version, until }) => (until === Infinity ? `${count(version.first_step)} on` : `${count(version.first_step)}–${count(until - 1)}`)],
        ["Reports", (row) => count(row.reports), true],
        ...heads.map((head) => [head.head, (row) => course(head.values, row), true]),
      ],
      rows,
      "",
    ),
    el("p", { class: "muted" }, "Before and after, not with and without: accuracy may have moved by itself. A paired run without the swap tells the difference."),
  );
}
