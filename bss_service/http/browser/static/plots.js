// Plots: lines over steps with the policies behind them, bars, a density. Each is a figure that also says in words what
// it shows, and has its numbers in a table for whoever can't see it.

import { count, el, number, NONE, points } from "./dom.js";

const COLOURS = ["--line-1", "--line-2", "--line-3", "--line-4", "--line-5", "--line-6"];
const DASHES = [[], [7, 4], [2, 3], [10, 3, 2, 3], [4, 2], [1, 2]];
const HEIGHT = 230;
const ROWS = 12; // of the table of numbers

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function lines(title, options) {
  return new Lines(title, options);
}

// Of a legend, a caption and a canvas. options: unit (of y), percent, points, low, high (of y), xUnit; policies: named
// below.
class Lines {
  constructor(title, options) {
    this.options = { xUnit: "step", ...options };
    this.holder = el("div", { class: "plot" });
    this.legend = el("ul", { class: "legend" });
    this.says = el("p", { class: "says" });
    this.numbers = el("div");
    this.details = el("details", { hidden: true }, el("summary", {}, "Numbers"), this.numbers);
    this.element = el(
      "figure",
      {},
      el("figcaption", {}, title),
      this.legend,
      this.holder,
      this.says,
      this.details,
    );
    this.title = title;
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.holder);
  }

  // x: (k,); rows: [{label, values (k,), low and high (k,) of a band around them, colour}]; versions: policies by their
  // first steps.
  show(x, rows, versions = []) {
    const drawn = rows.filter((row) => row.values.some((value) => value !== null));
    this.plot?.destroy();
    this.plot = null;
    this.legend.replaceChildren();
    this.numbers.replaceChildren();
    this.versions = versions;
    this.details.hidden = !x.length || !drawn.length;
    if (!x.length || !drawn.length) {
      this.holder.replaceChildren(el("p", { class: "empty" }, this.options.empty ?? "Nothing to show yet."));
      this.says.textContent = "";
      return;
    }
    this.holder.replaceChildren();
    this.colours = drawn.map((row, k) => style(COLOURS[(row.colour ?? k) % COLOURS.length]));
    const ends = drawn.flatMap((row, k) => (row.low ? [[k, row.high], [k, row.low]] : [])); // of bands, behind the lines
    const format = this.format.bind(this);
    const axis = { stroke: style("--muted"), grid: { stroke: style("--grid"), width: 1 }, ticks: { stroke: style("--grid"), width: 1 } };
    const few = x.length < 60;
    this.plot = new window.uPlot(
      {
        width: this.width(),
        height: HEIGHT,
        padding: [versions.length && this.options.xUnit === "step" ? 18 : 8, 12, 0, 0],
        legend: { show: false },
        cursor: { drag: { x: true, y: false } },
        scales: { x: { time: this.options.xUnit === "s", range: (_, low, high) => (high > low ? [low, high] : [low - 5, low + 5]) }, y: { range: (_, low, high) => this.range(low, high) } },
        axes: [
          { ...axis, label: this.options.xUnit === "s" ? "time of day" : "step", labelSize: 18, size: 32, font: "12px system-ui", labelFont: "12px system-ui", values: (_, ticks) => ticks.map((x) => (this.options.xUnit === "s" ? clock(x) : count(x))) },
          { ...axis, label: this.options.unit, labelSize: 18, size: 56, font: "12px system-ui", labelFont: "12px system-ui", values: (_, ticks) => ticks.map((tick) => (this.options.points ? number(100 * tick) : format(tick))) },
        ],
        series: [
          {},
          ...drawn.map((row, k) => ({
            label: row.label,
            stroke: this.colours[k],
            width: 2,
            dash: DASHES[k % DASHES.length],
            spanGaps: true,
            points: { show: few, size: 5, fill: this.colours[k] },
          })),
          ...ends.map(([k]) => ({ stroke: `${this.colours[k]}66`, width: 1, spanGaps: true, points: { show: false } })),
        ],
        bands: ends.flatMap(([k], at) => (at % 2 ? [] : [{ series: [1 + drawn.length + at, 2 + drawn.length + at], fill: `${this.colours[k]}22` }])),
        hooks: { drawClear: [(plot) => this.drawVersions(plot)], setCursor: [(plot) => this.tell(plot.cursor.idx)] },
      },
      [x, ...drawn.map((row) => row.values), ...ends.map(([, values]) => values)],
      this.holder,
    );
    this.plot.root.setAttribute("aria-hidden", "true"); // its numbers stand below, in words and as a table
    this.x = x;
    this.drawn = drawn;
    this.marks = drawn.map((row, k) => {
      const value = el("output");
      const swatch = el("canvas", { width: 28, height: 10, "aria-hidden": "true" });
      stroke(swatch, this.colours[k], DASHES[k % DASHES.length]);
      this.legend.append(el("li", {}, swatch, `${row.label} `, value));
      return value;
    });
    this.tell(null);
    this.numbers.append(this.table());
  }

  tell(at) {
    const k = at ?? this.x.length - 1;
    this.marks.forEach((mark, line) => {
      mark.textContent = this.format(at === null ? last(this.drawn[line].values) : this.drawn[line].values[k]);
    });
    const policies = this.versions.map((v) => `${v.policy.name} from step ${count(v.first_step)}`).join(", ");
    this.says.textContent =
      at === null
        ? this.options.policies && policies ? `Policies: ${policies}.` : ""
        : `${this.at(this.x[k])}${policies ? `, ${inForce(this.versions, this.x[k])}` : ""}`;
  }

  at(x) {
    return this.options.xUnit === "s" ? clock(x) : `Step ${count(x)}`;
  }

  format(value) {
    if (value === null || value === undefined) return NONE;
    if (this.options.points) return points(value);
    return this.options.percent ? `${number(100 * value)} %` : number(value);
  }

  range(low, high) {
    if (low === null) return [0, 1];
    const room = 0.06 * (high - low || Math.abs(high) || 1);
    return [this.options.low ?? low - room, Math.max(high + room, this.options.high ?? -Infinity)];
  }

  table() {
    const from = Math.max(0, this.x.length - ROWS);
    const head = ["step", ...this.drawn.map((row) => row.label)].map((name) => el("th", { scope: "col" }, name));
    if (this.options.xUnit === "s") head[0].textContent = "time";
    const body = this.x.slice(from).map((x, k) =>
      el("tr", {}, el("td", {}, this.options.xUnit === "s" ? this.at(x) : count(x)), this.drawn.map((row) => el("td", {}, this.format(row.values[from + k])))),
    );
    return el(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": `${this.title}, numbers` },
      el("table", {}, el("caption", {}, el("span", {}, `${this.title}: the latest`)), el("thead", {}, el("tr", {}, head)), el("tbody", {}, body)),
    );
  }

  // A tint for each policy version, a line where it took over, its name at the top.
  drawVersions(plot) {
    if (this.options.xUnit === "s") return;
    const { ctx, bbox } = plot;
    const scale = window.devicePixelRatio;
    ctx.save();
    ctx.font = `${11 * scale}px system-ui`;
    ctx.textBaseline = "top";
    let free = bbox.left; // where the next name may begin
    this.versions.forEach((version, k) => {
      const place = (step) => Math.min(Math.max(plot.valToPos(step, "x", true), bbox.left), bbox.left + bbox.width);
      const from = place(version.first_step);
      const to = k + 1 < this.versions.length ? place(this.versions[k + 1].first_step) : bbox.left + bbox.width;
      if (k % 2) {
        ctx.fillStyle = style("--band");
        ctx.fillRect(from, bbox.top, to - from, bbox.height);
      }
      ctx.fillStyle = style("--muted");
      if (k && from > bbox.left) ctx.fillRect(from, bbox.top, scale, bbox.height);
      const text = version.policy.name.slice(0, 24);
      const at = Math.max(from, free);
      if (at + ctx.measureText(text).width < bbox.left + bbox.width) {
        ctx.fillText(text, at, bbox.top - 15 * scale);
        free = at + ctx.measureText(text).width + 6 * scale;
      }
    });
    ctx.restore();
  }

  width() {
    return Math.max(240, this.holder.clientWidth);
  }

  resize() {
    if (this.plot && Math.abs(this.plot.width - this.width()) > 1) this.plot.setSize({ width: this.width(), height: HEIGHT });
  }
}

const clock = (seconds) => new Date(1000 * seconds).toLocaleTimeString("en-GB");
const last = (values) => values.findLast((value) => value !== null) ?? null;
const inForce = (versions, step) => versions.findLast((v) => v.first_step <= step)?.policy.name ?? "";

function stroke(canvas, colour, dash) {
  const context = canvas.getContext("2d");
  context.strokeStyle = colour;
  context.lineWidth = 3;
  context.setLineDash(dash);
  context.beginPath();
  context.moveTo(0, 5);
  context.lineTo(28, 5);
  context.stroke();
}

// counts (k,) between edges (k + 1,); says: a sentence.
export function bars(title, unit, edges, counts, says) {
  const figure = el("figure", {}, el("figcaption", {}, title));
  if (!counts.length) {
    figure.append(el("p", { class: "empty" }, "Not known yet."));
    return figure;
  }
  const canvas = el("canvas", { role: "img", "aria-label": `${title}. ${says}` });
  figure.append(el("div", { class: "plot" }, canvas), el("p", { class: "says" }, says));
  onSize(canvas, 150, (context, width, height) => {
    const left = 8, bottom = 34, top = 20;
    const most = Math.max(...counts);
    const slot = (width - 2 * left) / counts.length;
    context.fillStyle = style("--line-1");
    counts.forEach((value, k) => {
      const tall = value && Math.max(1, (value / most) * (height - bottom - top));
      context.fillRect(left + k * slot, height - bottom - tall, Math.max(1, slot - 1), tall);
    });
    context.fillStyle = style("--muted");
    context.fillRect(left, height - bottom, width - 2 * left, 1);
    context.font = "12px system-ui";
    context.textBaseline = "top";
    const single = unit !== "1" && edges[0] % 1 === 0 && edges[1] - edges[0] === 1; // a bin for each whole number
    const ticks = single ? [...new Set([0, (counts.length - 1) >> 1, counts.length - 1])] : [0, counts.length >> 1, counts.length];
    for (const at of ticks) {
      context.textAlign = single ? "center" : at === 0 ? "left" : at === counts.length ? "right" : "center";
      context.fillText(number(edges[at]), left + (at + (single ? 0.5 : 0)) * slot, height - bottom + 4);
    }
    context.textAlign = "left";
    context.fillText(`up to ${count(most)} samples`, left, 2);
    context.textAlign = "center";
    context.fillText(unit === "1" ? "value" : unit, width / 2, height - 15);
  });
  return figure;
}

export function heat(title, density, says) {
  const figure = el("figure", {}, el("figcaption", {}, title));
  if (!density.counts.length) {
    figure.append(el("p", { class: "empty" }, "Not known yet, or the job does not send both."));
    return figure;
  }
  const canvas = el("canvas", { role: "img", "aria-label": `${title}. ${says}` });
  figure.append(el("div", { class: "plot" }, canvas), el("p", { class: "says" }, says));
  onSize(canvas, 300, (context, width, height) => {
    const left = 52, bottom = 38, top = 6, right = 12;
    const cells = density.counts.length;
    const most = Math.log1p(Math.max(...density.counts.map((row) => Math.max(...row))));
    const across = (width - left - right) / cells, up = (height - bottom - top) / cells;
    context.fillStyle = style("--line-1");
    density.counts.forEach((row, s) =>
      row.forEach((value, l) => {
        if (!value) return;
        context.globalAlpha = 0.12 + 0.88 * (Math.log1p(value) / most);
        context.fillRect(left + s * across, height - bottom - (l + 1) * up, across + 0.5, up + 0.5);
      }),
    );
    context.globalAlpha = 1;
    context.strokeStyle = style("--grid");
    context.strokeRect(left, top, width - left - right, height - bottom - top);
    context.fillStyle = style("--muted");
    context.font = "12px system-ui";
    context.textBaseline = "top";
    const [low, high] = density.similarity;
    context.textAlign = "left";
    context.fillText(number(low), left, height - bottom + 4);
    context.textAlign = "right";
    context.fillText(number(high), width - right, height - bottom + 4);
    context.textAlign = "center";
    context.fillText("similarity of the heads (cosine)", left + (width - left - right) / 2, height - 17);
    context.textAlign = "right";
    context.fillText(number(density.loss[1]), left - 5, top);
    context.fillText(number(density.loss[0]), left - 5, height - bottom - 12);
    context.translate(8, top + (height - bottom - top) / 2);
    context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.fillText("loss (nat)", 0, 0);
  });
  return figure;
}

function onSize(canvas, height, draw) {
  const paint = () => {
    const width = canvas.parentElement.clientWidth;
    if (!width) return;
    const scale = window.devicePixelRatio;
    canvas.width = width * scale;
    canvas.height = height * scale;
    canvas.style.width = "100%";
    canvas.style.height = `${height}px`;
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    draw(context, width, height);
  };
  new ResizeObserver(paint).observe(canvas);
}
