// Two jobs or more, over the same steps.

import { get, path, repeat } from "../api.js";
import { count, el, link, percent, route, section, signed, table } from "../dom.js";
import { lines } from "../plots.js";

const MOST = 6; // colours

export async function compareView(content, { query, signal, failed }) {
  const names = query.getAll("jobs").slice(0, MOST);
  const holder = el("div");
  content.append(el("nav", { class: "trail", "aria-label": "Breadcrumb" }, link("/", "All jobs")), el("h1", {}, "Compare jobs"), holder);
  if (names.length < 2) {
    holder.append(el("p", { class: "empty" }, "Choose two jobs or more from the list."));
    return;
  }
  const accuracy = lines("Validation accuracy, joint head", { unit: "accuracy (%)", percent: true, empty: "No validation was reported yet." });
  const loss = lines("Validation loss", { unit: "loss (nat)", empty: "No validation was reported yet." });
  const numbers = el("div");
  holder.append(section("Over the same steps", el("div", { class: "pair" }, accuracy.element, loss.element)), section("Where they are", numbers));

  let before = [];
  async function show() {
    const answers = await Promise.all(names.map((name) => get(`${path("jobs", name)}/series?of=validation`, signal)));
    if (answers.every((answer, k) => answer === before[k])) return;
    before = answers;
    const of = (answer, name) => answer.series.find((line) => line.name === name && line.head === "joint").values;
    for (const [plot, name] of [[accuracy, "accuracy"], [loss, "loss"]]) {
      const [x, ...values] = window.uPlot.join(answers.map((answer) => [answer.x, of(answer, name)])).map((column) => Array.from(column, (value) => value ?? null));
      plot.show(x, names.map((label, k) => ({ label, values: values[k] })));
    }
    const best = (answer) => Math.max(...of(answer, "accuracy").filter((value) => value !== null));
    const first = answers[0];
    numbers.replaceChildren(
      table(
        "Joint head; the difference is to the first job",
        [
          ["Job", (k) => link(route("jobs", names[k]), names[k])],
          ["Policy", (k) => answers[k].versions.map((version) => version.policy.name).join(" → ")],
          ["Reports", (k) => count(answers[k].rows), true],
          ["Latest step", (k) => count(answers[k].x.at(-1)), true],
          ["Latest accuracy", (k) => percent(of(answers[k], "accuracy").at(-1)), true],
          ["Best accuracy", (k) => (answers[k].x.length ? percent(best(answers[k])) : "–"), true],
          ["Best, difference", (k) => (k && answers[k].x.length && first.x.length ? `${signed(100 * (best(answers[k]) - best(first)))} points` : "–"), true],
        ],
        names.map((_, k) => k),
        "",
      ),
      el("p", { class: "muted" }, "One pair of runs can't tell chance from gain: repeat both with other seeds."),
    );
  }

  await show();
  repeat(3, signal, show, failed);
}
