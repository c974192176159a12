// Jobs beside one another: does the policy help, by how much, how sure is that, and how many seeds more would tell.

import { get, path, repeat } from "../api.js";
import { count, el, link, NONE, percent, points, route, section, sentence, table } from "../dom.js";
import { lines } from "../plots.js";

const MOST = 20; // jobs whose curves are drawn
const VERDICTS = { helps: ["helps", "good"], hurts: ["hurts", "bad"] };
const SPREADS = {
  pairs: "the pairs themselves",
  "late validations": "the late validations of the one pair",
  "validation samples": "the size of the validation set",
};

export const compareRoute = (names) => `/compare?${new URLSearchParams(names.map((name) => ["job", name]))}`;

export const comparison = (names, signal) => get(`compare?${new URLSearchParams(names.map((name) => ["job", name]))}`, signal);

export async function compareView(content, { query, signal, failed }) {
  const names = [...new Set(query.getAll("job"))];
  content.append(el("nav", { class: "trail", "aria-label": "Breadcrumb" }, link("/", "All jobs")), el("h1", {}, "Compare jobs"));
  if (names.length < 2) {
    content.append(el("p", { class: "empty" }, "Choose two jobs or more from the list."));
    return;
  }
  const told = el("div");
  const difference = lines("Difference to the baseline over the run, with its interval at each step", { unit: "difference (points)", points: true, empty: "The jobs have validated at no step together yet." });
  const accuracy = lines("Validation accuracy, joint head", { unit: "accuracy (%)", percent: true, empty: "No validation was reported yet." });
  const loss = lines("Validation loss", { unit: "loss (nat)", empty: "No validation was reported yet." });
  const numbers = el("div");
  content.append(
    section("Is it helping?", told, difference.element),
    section("Each job over the same steps", el("div", { class: "pair" }, accuracy.element, loss.element), numbers),
  );

  let before = [];
  async function show() {
    const shown = names.slice(0, MOST);
    const answers = await Promise.all(shown.map((name) => get(`${path("jobs", name)}/series?of=validation`, signal)));
    if (answers.every((answer, k) => answer === before[k])) return;
    before = answers;
    showCurves(shown, answers);
    try {
      showComparison(await comparison(names, signal));
    } catch (error) {
      if (error.status !== 422) throw error;
      told.replaceChildren(el("p", { class: "lead" }, "They can't be compared."), el("p", {}, error.message));
    }
  }

  function showComparison(answer) {
    const several = answer.policies.length > 1 ? `, ${percent(answer.level)} each, so that 95 % holds for all of them together` : " of 95 %";
    told.replaceChildren(
      el("p", { class: "lead" }, sentence(answer.sentence)),
      table(
        `Against ${answer.baseline}, in points of validation accuracy, with intervals${several}`,
        [
          ["Policy", (row) => row.policy],
          ["Verdict", (row) => verdict(row.verdict)],
          ["Pairs", (row) => count(row.seeds.length), true],
          ["Best so far", (row) => interval(row.best), true],
          ["Last", (row) => interval(row.last), true],
          ["Spread of a pair", (row) => spread(row)],
          ["Seeds it would take", (row) => (row.more_seeds === null ? NONE : `${count(row.more_seeds)} more`), true],
        ],
        answer.policies,
        "",
      ),
      el("p", { class: "muted" }, `Jobs of the same seed are a pair. “Best” is of the model that one would keep; the verdict is by its interval alone.${answer.unpaired.length ? ` Left out, since no other job has their seed: ${answer.unpaired.join(", ")}.` : ""}`),
    );
    const of = (row, end) => row.curve.map((point) => point[end]);
    difference.show(answer.steps, answer.policies.map((row) => ({ label: row.policy, values: of(row, "mean"), low: of(row, "low"), high: of(row, "high") })));
  }

  function showCurves(shown, answers) {
    const policies = answers.map((answer) => answer.versions.map((version) => version.policy.name).join(" → "));
    const colours = [...new Set(policies)];
    const of = (answer, name) => answer.series.find((line) => line.name === name && line.head === "joint").values;
    for (const [plot, name] of [[accuracy, "accuracy"], [loss, "loss"]]) {
      const [x, ...values] = window.uPlot.join(answers.map((answer) => [answer.x, of(answer, name)])).map((column) => Array.from(column, (value) => value ?? null));
      plot.show(x, shown.map((label, k) => ({ label, values: values[k], colour: colours.indexOf(policies[k]) })));
    }
    const best = (answer) => Math.max(...of(answer, "accuracy").filter((value) => value !== null));
    numbers.replaceChildren(
      table(
        names.length > shown.length ? `The first ${shown.length} of ${names.length} jobs, joint head` : "Joint head",
        [
          ["Job", (k) => link(route("jobs", shown[k]), shown[k])],
          ["Policy", (k) => policies[k]],
          ["Reports", (k) => count(answers[k].rows), true],
          ["Latest step", (k) => count(answers[k].x.at(-1)), true],
          ["Latest accuracy", (k) => percent(of(answers[k], "accuracy").at(-1)), true],
          ["Best accuracy", (k) => (answers[k].x.length ? percent(best(answers[k])) : NONE), true],
        ],
        shown.map((_, k) => k),
        "",
      ),
    );
  }

  await repeat(3, signal, show, failed);
}

export function verdict(told) {
  const [text, tone] = VERDICTS[told] ?? ["can’t tell yet", ""];
  return el("span", { class: `badge ${tone}` }, text);
}

function interval({ mean, low, high }) {
  return low === null || high === null ? points(mean) : `${points(mean)} [${points(low)}, ${points(high)}]`;
}

function spread({ spread: of, spread_from: from }) {
  return of === null ? NONE : `${points(of).replace("+", "")}, by ${SPREADS[from] ?? from}`;
}
