/* Charts of runs, for the report and the live page: hover, zoom, a logarithmic scale, raw and smoothed, three axes of progress.

   Vega draws (`window.vegaEmbed`, loaded before this, or when `window.vegaReady` says so); here is only what it should draw, and one state that all charts of a page share:
   the axis, the window of zoom and the cursor. Everything that the pointer does, keys do too. The numbers are those that
   `report/figures.py` gives; texts from data are only ever set as text.

   const page = wellfit.charts(element, data);   page.show(step);   page.update(data);
   With {steps: true}, for curves of several runs, steps are the only axis. */
"use strict";
(() => {
const AXES = { step: "step", samples: "samples", time: "seconds" };
const PALETTE = ["--c1", "--c2", "--c3", "--c4", "--c5", "--c6", "--c7", "--c8"];
const PLAIN = "datum.value && (abs(datum.value) < 1e-3 || abs(datum.value) >= 1e6) ? format(datum.value, '.2~e') : format(datum.value, ',.6~f')";
const STYLES = { error: "--bad", warning: "--warn", advice: "--accent" };
const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim() || "#888";

function made(name, attributes = {}, ...inside) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes))
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(key, value === true ? "" : value);
  node.append(...inside);
  return node;
}

function told(value, share) {
  if (value === null || !Number.isFinite(value)) return "not finite";
  if (share) return `${(100 * value).toFixed(1)} %`;
  const size = Math.abs(value);
  return size && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : value.toLocaleString("en", { maximumSignificantDigits: 4 });
}

/* Where a step lies on the chosen axis. A clock is {batch, seconds: [[step, seconds since the start], ...]}. */
function place(step, clock, axis) {
  if (axis === "samples") return step * clock.batch;
  if (axis === "step" || !clock.seconds.length) return step;
  const ticks = clock.seconds;
  let low = 0, high = ticks.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (ticks[middle][0] < step) low = middle + 1; else high = middle;
  }
  const [s1, t1] = ticks[low], [s0, t0] = low ? ticks[low - 1] : [0, 0];
  return s1 === s0 ? t1 : t0 + (t1 - t0) * (step - s0) / (s1 - s0);
}

function nearest(points, x) { // [x, y] sorted by x
  let low = 0, high = points.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < x) low = middle + 1; else high = middle;
  }
  return low && x - points[low - 1][0] < points[low][0] - x ? points[low - 1] : points[low];
}

let pages = 0; // groups of charts on this page

class Page {
  constructor(root, data, options = {}) {
    Object.assign(this, { root, options, axis: "step", raw: true, window: null, at: null, charts: new Map() });
    this.bar = made("div", { class: "controls", role: "toolbar", "aria-label": "All charts" });
    this.grid = made("div", { class: "plots" });
    root.replaceChildren(this.bar, this.grid);
    this.controls();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.update(data);
  }

  controls() {
    const nth = pages++ || "", id = name => `${name}${nth}`;
    const axes = made("select", { id: id("axis"), onchange: event => { this.axis = event.target.value; this.window = this.at = null; this.draw(); } },
      ...Object.entries({ step: "steps", samples: "samples", time: "time" }).map(([value, text]) => made("option", { value }, text)));
    const raw = made("input", { type: "checkbox", id: id("raw"), checked: true, onchange: event => { this.raw = event.target.checked; this.draw(); } });
    const press = (text, label, act) => made("button", { type: "button", "aria-label": label, title: label, onclick: act }, text);
    this.bar.append(
      ...(this.options.steps ? [] : [made("label", { for: id("axis") }, "over "), axes, made("label", { for: id("raw") }, raw, " raw values")]),
      made("span", { class: "zoom" },
        press("−", "Zoom out", () => this.zoom(2)), press("+", "Zoom in", () => this.zoom(0.5)),
        press("◀", "Earlier", () => this.pan(-0.5)), press("▶", "Later", () => this.pan(0.5)), press("all", "Show everything", () => this.reset())));
  }

  /* New numbers, as while a run grows. Charts keep their place, their scale and the window. */
  update(data) {
    this.data = data;
    const wanted = data.charts.map(chart => chart.id);
    for (const [id, chart] of this.charts)
      if (!wanted.includes(id)) { chart.figure.remove(); chart.view?.finalize(); this.charts.delete(id); }
    for (const chart of data.charts) {
      if (!this.charts.has(chart.id)) this.charts.set(chart.id, new Chart(this, chart));
      this.charts.get(chart.id).data = chart;
    }
    for (const id of wanted) this.grid.append(this.charts.get(id).figure);
    return this.draw();
  }

  draw() { // where points lie is settled for all before the first is drawn over the range of all
    for (const chart of this.charts.values()) chart.lay();
    return Promise.all([...this.charts.values()].map(chart => chart.draw()));
  }

  extent() {
    let low = Infinity, high = -Infinity;
    for (const chart of this.charts.values())
      for (const points of chart.points) if (points.length) { low = Math.min(low, points[0][0]); high = Math.max(high, points.at(-1)[0]); }
    return low < high ? [low, high] : [low - 0.5, high + 0.5];
  }

  zoom(factor, around) {
    const [low, high] = this.window ?? this.extent(), [first, last] = this.extent();
    const middle = around ?? this.at ?? (low + high) / 2, share = (middle - low) / (high - low);
    const width = Math.min(last - first, Math.max((last - first) / 2000, (high - low) * factor));
    this.set(middle - share * width, middle + (1 - share) * width);
  }

  pan(share) {
    const [low, high] = this.window ?? this.extent();
    this.set(low + share * (high - low), high + share * (high - low));
  }

  set(low, high) { // kept within what there is
    const [first, last] = this.extent(), width = Math.min(high - low, last - first);
    low = Math.min(Math.max(low, first), last - width);
    this.window = width >= (last - first) * 0.999 ? null : [low, low + width];
    for (const chart of this.charts.values()) chart.move();
  }

  reset() { this.window = null; for (const chart of this.charts.values()) chart.move(); }

  point(x) { this.at = x; for (const chart of this.charts.values()) chart.point(); }

  /* The cursor at a step, and a window around it where the charts are long. */
  show(step) {
    const x = place(step, this.data.clocks[0], this.axis), [first, last] = this.extent();
    this.set(x - (last - first) / 8, x + (last - first) / 8);
    this.point(x);
    const chart = this.charts.values().next().value;
    chart?.box.focus({ preventScroll: true });
    chart?.figure.scrollIntoView({ block: "center", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  }
}

class Chart {
  constructor(page, data) {
    Object.assign(this, { page, data, log: Boolean(data.log), points: [], view: null, drawing: 0 });
    this.legend = made("div", { class: "legend" });
    this.scale = made("button", { type: "button", class: "scale", "aria-pressed": String(this.log), onclick: () => {
      this.log = !this.log; this.scale.setAttribute("aria-pressed", String(this.log)); this.draw();
    } }, "log");
    this.scale.setAttribute("aria-label", `Logarithmic scale of ${data.title}`);
    this.box = made("div", { class: "chart", tabindex: "0", role: "group", "aria-label": `${data.title}. Arrow keys move a cursor, plus and minus zoom.` });
    this.readout = made("output", { class: "readout", "aria-live": "polite" });
    this.figure = made("figure", { class: data.whole ? "whole" : null, id: `chart-${data.id}` },
      made("figcaption", {}, made("h3", {}, data.title), this.scale, this.legend), this.box, this.readout);
    this.listen();
  }

  x(step, series) { return place(step, this.page.data.clocks[series.clock ?? 0], this.page.axis); }

  shown() { return this.data.series.filter(series => this.page.raw || series.look !== "faint" || this.data.series.length === 1); }

  hue(series, i) {
    if (series.hue !== undefined) return colour(PALETTE[series.hue % PALETTE.length]);
    return colour({ accent: "--accent", faint: "--faint", main: "--ink" }[series.look] ?? PALETTE[i % PALETTE.length]);
  }

  bands() { // between the lowest and the highest of those whose mean is drawn
    return this.shown().flatMap((one, i) => (one.band ?? []).filter(([, low]) => low !== null && (!this.logged || low > 0))
      .map(([step, low, high]) => ({ i, x: this.x(step, one), low, high })));
  }

  lay() {
    this.points = this.shown().map(one => one.points.map(([step, y]) => [this.x(step, one), y, step]).sort((a, b) => a[0] - b[0]));
  }

  async draw() {
    const turn = ++this.drawing, series = this.shown();
    this.lay();
    // Of several runs the table beside tells the colours; here only what is dashed.
    const told = this.data.kinds ?? (series.length > 1 ? series.map((one, i) => ({ label: one.label, hue: this.hue(one, i) })) : []);
    this.legend.replaceChildren(...told.map(one => {
      const key = made("i", { class: one.dash ? "key dash" : "key" });
      key.style.color = one.hue ?? colour("--muted");
      return made("span", {}, key, one.label);
    }), ...(this.data.level ? [made("span", {}, `dotted: ${this.data.level[1]}`)] : []));
    const positive = this.points.some(points => points.some(([, y]) => y > 0));
    this.scale.hidden = !positive || this.data.share;
    this.logged = this.log && positive && !this.data.share;
    const place = made("div", { class: "coming" });
    this.box.append(place); // Vega asks the element how wide it is
    await window.vegaReady; // of the live page, which fetches it meanwhile
    const result = await vegaEmbed(place, this.spec(series, this.logged), { actions: false, renderer: "svg", tooltip: false });
    if (turn !== this.drawing) { result.finalize(); place.remove(); return; } // a later call was quicker
    this.view?.finalize();
    this.view = result.view;
    place.classList.remove("coming");
    this.box.replaceChildren(place);
    this.point();
  }

  spec(series, log) {
    const [low, high] = this.page.window ?? this.whole(), [bottom, top] = this.span(low, high, log), text = colour("--muted"), rule = colour("--rule");
    const values = this.points.flatMap((points, i) => points.map(([x, y]) => ({ i, x, y: y !== null && (!log || y > 0) ? y : null })));
    const looks = series.map((one, i) => this.hue(one, i));
    const few = this.points.map(points => points.length <= 40);
    const x = { field: "x", type: "quantitative", title: AXES[this.page.axis], scale: { domain: { expr: "[low, high]" }, nice: false, zero: false } };
    const y = { field: "y", type: "quantitative", title: null, scale: { ...(log ? { type: "log" } : { zero: false }), nice: true, domain: { expr: "[bottom, top]" } },
      axis: this.data.share ? { format: ".3~%" } : { labelExpr: PLAIN } };
    const hue = { field: "i", type: "nominal", legend: null, scale: { domain: series.map((_, i) => i), range: looks } };
    const within = { filter: "datum.x >= low && datum.x <= high" };
    const layers = [{ data: { values: this.bands() }, mark: { type: "area", clip: true, opacity: 0.15, aria: false },
      encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" }, color: hue } },
    { data: { values }, mark: { type: "line", clip: true, strokeJoin: "round", aria: false },
      encoding: { x, y, color: hue, strokeWidth: { condition: { test: among(series, one => one.look === "faint"), value: 1 }, value: 1.8 },
        strokeDash: { condition: { test: among(series, one => one.dash), value: [5, 3] }, value: [1, 0] } } }];
    if (few.some(Boolean)) layers.push({ data: { values: values.filter(one => few[one.i]) }, transform: [within, { filter: "datum.y === null || (datum.y >= bottom && datum.y <= top)" }], mark: { type: "circle", size: 22, opacity: 1, aria: false }, encoding: { x, y, color: hue } });
    if (this.data.level) layers.push({ data: { values: [{ y: this.data.level[0] }] }, mark: { type: "rule", strokeDash: [2, 3], stroke: text, clip: true, aria: false }, encoding: { y } });
    layers.push({ data: { values: [{}] }, transform: [{ calculate: "at", as: "x" }, { filter: "isValid(at) && at >= low && at <= high" }],
      mark: { type: "rule", stroke: text, aria: false }, encoding: { x } });
    const marks = [
      ...(this.page.data.best !== null && this.page.data.best !== undefined ? [{ step: this.page.data.best, hue: text, name: "best" }] : []),
      ...(this.page.data.findings ?? []).map((one, number) => ({ step: one.step, hue: colour(STYLES[one.severity] ?? "--warn"), name: one.id, number })),
    ].map(one => ({ ...one, x: place(one.step, this.page.data.clocks[0], this.page.axis) }));
    if (marks.length) {
      layers.push({ data: { values: marks }, transform: [within], mark: { type: "rule", strokeDash: [3, 3], clip: true, aria: false }, encoding: { x, color: { field: "hue", type: "nominal", scale: null } } });
      layers.push({ data: { values: marks.filter(one => one.number !== undefined) }, transform: [within],
        mark: { type: "point", shape: "triangle-down", filled: true, size: 110, opacity: 1, cursor: "pointer" },
        encoding: { x, y: { value: 4 }, color: { field: "hue", type: "nominal", scale: null }, description: { field: "name" } } });
    }
    return {
      width: "container", height: this.data.whole ? 260 : 180, background: null, autosize: { type: "fit-x", contains: "padding" }, padding: 2,
      params: Object.entries({ low, high, bottom, top, at: this.page.at }).map(([name, value]) => ({ name, value })),
      layer: layers, description: this.data.says ?? this.data.title, usermeta: {},
      config: { view: { stroke: null }, font: "system-ui, sans-serif", axis: { labelColor: text, titleColor: text, gridColor: rule, domainColor: rule, tickColor: rule, titleFontWeight: "normal", labelFontSize: 11, titleFontSize: 11 } },
    };
  }

  whole() {
    const ends = this.points.filter(points => points.length).flatMap(points => [points[0][0], points.at(-1)[0]]);
    const [low, high] = this.page.charts.size ? this.page.extent() : [Math.min(...ends), Math.max(...ends)];
    return Number.isFinite(low) ? [low, high] : [0, 1];
  }

  /* The least and the greatest value of what the window shows, the points just outside it included. */
  span(low, high, log) {
    let bottom = Infinity, top = -Infinity;
    for (const points of this.points) {
      const first = points.findIndex(([x]) => x >= low), last = points.findLastIndex(([x]) => x <= high);
      for (const [, y] of points.slice(Math.max(0, (first < 0 ? points.length : first) - 1), last + 2))
        if (y !== null && (!log || y > 0)) { bottom = Math.min(bottom, y); top = Math.max(top, y); }
    }
    for (const one of this.bands()) if (one.x >= low && one.x <= high) { bottom = Math.min(bottom, one.low); top = Math.max(top, one.high); }
    if (bottom > top) return log ? [0.1, 1] : [0, 1];
    if (this.data.level && !log) top = Math.max(top, this.data.level[0] <= 2 * top ? this.data.level[0] : top);
    if (bottom === top) { const room = Math.abs(top) / 10 || 1; return log ? [bottom / 2, top * 2] : [bottom - room, top + room]; }
    return [bottom, top];
  }

  move() {
    if (!this.view) return;
    const [low, high] = this.page.window ?? this.page.extent(), [bottom, top] = this.span(low, high, this.logged);
    this.view.signal("low", low).signal("high", high).signal("bottom", bottom).signal("top", top).runAsync();
    this.point();
  }

  point() {
    this.view?.signal("at", this.page.at).runAsync();
    this.readout.textContent = this.page.at === null ? "" : this.says(this.page.at);
  }

  says(x) {
    const series = this.shown(), parts = [];
    let step = null;
    this.points.forEach((points, i) => {
      if (!points.length) return;
      const [, y, at] = nearest(points, x);
      step ??= at;
      parts.push(`${series.length > 1 ? `${series[i].label} ` : ""}${told(y, this.data.share)}${at === step ? "" : ` (step ${at.toLocaleString("en")})`}`);
    });
    return step === null ? "" : `step ${step.toLocaleString("en")}: ${parts.join(", ")}`;
  }

  at(event) { // the value of the axis under the pointer
    const box = this.box.getBoundingClientRect(), scale = this.view.scale("x");
    return scale.invert(event.clientX - box.left - this.view.origin()[0]);
  }

  listen() {
    let start = null;
    const page = this.page;
    this.box.addEventListener("pointermove", event => {
      if (!this.view) return;
      if (start && event.buttons === 1) {
        const by = (start.at - event.clientX) * (start.high - start.low) / this.view.width();
        page.set(start.low + by, start.high + by);
        return;
      }
      page.point(this.snapped(this.at(event)));
    });
    this.box.addEventListener("pointerdown", event => {
      if (!this.view || event.pointerType === "touch") return;
      const [low, high] = page.window ?? page.extent();
      start = page.window ? { at: event.clientX, low, high } : null;
    });
    addEventListener("pointerup", () => { start = null; });
    this.box.addEventListener("wheel", event => { // with a key, so that the page still scrolls
      if (!this.view || !(event.ctrlKey || event.metaKey || event.shiftKey)) return;
      event.preventDefault();
      page.zoom(event.deltaY + event.deltaX > 0 ? 1.25 : 0.8, this.at(event));
    }, { passive: false });
    this.box.addEventListener("dblclick", () => page.reset());
    this.box.addEventListener("click", event => {
      const path = event.target.closest?.("[aria-label]"), name = path?.getAttribute("aria-label");
      const number = (page.data.findings ?? []).findIndex(one => one.id === name);
      if (number >= 0) page.options.finding?.(page.data.findings[number], number);
    });
    this.box.addEventListener("keydown", event => {
      const act = { ArrowRight: () => this.walk(event.shiftKey ? 10 : 1), ArrowLeft: () => this.walk(event.shiftKey ? -10 : -1),
        Home: () => this.walk(-Infinity), End: () => this.walk(Infinity), "+": () => page.zoom(0.5), "=": () => page.zoom(0.5), "-": () => page.zoom(2),
        0: () => page.reset(), Escape: () => { page.reset(); page.point(null); } }[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    });
  }

  longest() { return this.points.reduce((most, points) => points.length > most.length ? points : most, []); }

  snapped(x) { const points = this.longest(); return points.length ? nearest(points, x)[0] : x; }

  walk(by) { // along what is shown
    const [low, high] = this.page.window ?? this.page.extent();
    const points = this.longest().filter(([x]) => x >= low && x <= high);
    if (!points.length) return;
    const found = this.page.at === null ? (by > 0 ? -1 : points.length) : points.findIndex(([x]) => x >= this.page.at);
    const here = found < 0 && this.page.at !== null ? points.length : found; // beyond the last one
    const to = Math.min(points.length - 1, Math.max(0, here + by));
    this.page.point(points[to][0]);
  }
}

/* Vega's test for those of the series that fit. */
function among(series, fits) {
  const numbers = series.flatMap((one, i) => fits(one) ? [i] : []);
  return numbers.length ? `indexof([${numbers}], datum.i) >= 0` : "false";
}

/* Layers over time: {steps, layers, tables: [{name, log, values: [layer][step]}]}. */
function heat(root, data) {
  const choice = made("select", { id: "heat-of", onchange: () => draw() }, ...data.tables.map((table, i) => made("option", { value: i }, table.name)));
  const box = made("div"), frame = made("div", { class: "chart" }, box);
  root.replaceChildren(made("div", { class: "controls" }, made("label", { for: "heat-of" }, "Of each layer "), choice), frame);
  const draw = () => {
    const table = data.tables[Number(choice.value)], text = colour("--muted"), rows = table.layers, values = [];
    const ends = data.steps.map((step, i) => data.steps[i + 1] ?? Math.max(data.end, step + 1));
    rows.forEach((layer, row) => data.steps.forEach((step, i) => {
      const value = table.values[row][i];
      if (value !== null) values.push({ layer: `${row}`, step, end: ends[i], value, shown: table.log ? Math.log10(Math.max(value, 1e-12)) : value });
    }));
    return vegaEmbed(box, {
      width: "container", height: 17 * rows.length, background: null, autosize: { type: "fit-x", contains: "padding" }, data: { values },
      description: `${table.name} of each layer over the steps`, mark: { type: "rect", aria: false },
      encoding: {
        x: { field: "step", type: "quantitative", title: "step", scale: { nice: false, zero: false } }, x2: { field: "end" },
        y: { field: "layer", type: "nominal", title: null, sort: rows.map((_, i) => `${i}`), scale: { domain: rows.map((_, i) => `${i}`) },
          axis: { labelExpr: `${JSON.stringify(rows.map(name => name.length > 32 ? `…${name.slice(-31)}` : name))}[+datum.value]`, labelLimit: 220 } },
        color: { field: "shown", type: "quantitative", scale: { scheme: "viridis" }, legend: { title: table.log ? "power of ten" : null, orient: "bottom", gradientLength: 160 } },
        tooltip: [{ field: "step", type: "quantitative" }, { field: "value", type: "quantitative", format: ".3~g" }],
      },
      config: { view: { stroke: null }, font: "system-ui, sans-serif", axis: { labelColor: text, titleColor: text, grid: false, titleFontWeight: "normal" }, legend: { labelColor: text, titleColor: text, titleFontWeight: "normal" } },
    }, { actions: false, renderer: "svg" });
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  return draw();
}

window.wellfit = { charts: (root, data, options) => new Page(root, data, options), heat, made, told };
})();
