/* The live page: the runs of a folder, their curves over each other, findings as they come. It asks again every two seconds, for what
   has changed only. Names and texts from runs are only ever set as text. */
"use strict";
(async () => {
const { made, told } = wellfit;
window.vegaReady = new Promise((resolve, reject) => { // the table need not wait for what draws
  const script = made("script", { src: "vega.js", onload: resolve, onerror: () => reject(new Error("vega.js did not come")) });
  document.head.append(script);
});
const clock = new Intl.DateTimeFormat([], { dateStyle: "short", timeStyle: "short" }), counted = new Intl.NumberFormat("en");
const EVERY = 2000, CHOSEN_FIRST = 1;
const COLUMNS = [["name", "run"], ["state", "state"], ["step", "step"], ["score", "score"], ["findings", "findings"], ["began", "began"]];
const body = document.querySelector("#runs tbody"), filter = document.getElementById("filter"), says = document.getElementById("says");
const state = { runs: [], chosen: [], known: new Map(), sort: ["began", -1], hues: new Map(), page: null, first: true, more: false, failed: 0 };

async function asked(path, tag) {
  const answer = await fetch(path, { headers: tag ? { "If-None-Match": tag } : {} });
  if (answer.status === 304) return null;
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).detail ?? `${answer.status}`);
  return { tag: answer.headers.get("ETag"), body: await answer.json() };
}

// ---- the table

const order = {
  name: run => run.name, state: run => run.state, step: run => run.step, score: run => run.value ?? -Infinity,
  findings: run => 1e6 * run.findings.error + 1e3 * run.findings.warning + run.findings.advice, began: run => run.began ?? 0,
};

function listed() {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean), [by, sign] = state.sort;
  const fits = run => words.every(word => `${run.name} ${run.state} ${run.metric}`.toLowerCase().includes(word));
  return state.runs.filter(fits).sort((a, b) => {
    const [x, y] = [order[by](a), order[by](b)];
    return sign * (x < y ? -1 : x > y ? 1 : 0);
  });
}

const rows = new Map();
function row(run) {
  const box = made("input", { type: "checkbox", "aria-label": `Show the curves of ${run.name}`, onchange: () => choose(run.name, box.checked) });
  const key = made("i", { class: "key" }), link = made("a", { href: `report/${encodeURIComponent(run.name)}`, target: "_blank", rel: "noopener" }, "report");
  const cells = Object.fromEntries(COLUMNS.slice(1).map(([name]) => [name, made("td", { class: name })]));
  const node = made("tr", {}, made("td", {}, box), made("th", { scope: "row" }, key, made("label", {}, run.name), " ", link), ...Object.values(cells));
  node.querySelector("label").addEventListener("click", () => box.click());
  return { node, box, key, cells };
}

function filled(parts, run) {
  const share = run.steps ? ` of ${counted.format(run.steps)}` : "";
  const counts = ["error", "warning", "advice"].filter(one => run.findings[one]).map(one => `${run.findings[one]} ${one}`);
  const texts = { state: run.state, step: `${counted.format(run.step)}${share}`, score: run.score, findings: counts.join(", ") || "none",
    began: run.began ? clock.format(1000 * run.began) : "" };
  for (const [name, text] of Object.entries(texts)) if (parts.cells[name].textContent !== text) parts.cells[name].textContent = text;
  parts.cells.findings.className = `findings ${run.findings.error ? "error" : run.findings.warning ? "warning" : ""}`;
  parts.box.checked = state.chosen.includes(run.name);
  parts.node.classList.toggle("chosen", parts.box.checked);
  parts.key.style.background = parts.box.checked ? `var(--c${1 + state.hues.get(run.name) % 8})` : "transparent";
}

function table() {
  const shown = listed(), names = new Set(state.runs.map(run => run.name));
  for (const [name, parts] of rows) if (!names.has(name)) { parts.node.remove(); rows.delete(name); }
  const nodes = shown.map(run => {
    if (!rows.has(run.name)) rows.set(run.name, row(run));
    const parts = rows.get(run.name);
    filled(parts, run);
    return parts.node;
  });
  if (nodes.length !== body.children.length || nodes.some((node, i) => node !== body.children[i])) {
    const focused = document.activeElement;
    body.replaceChildren(...nodes);
    if (body.contains(focused)) focused.focus();
  }
  document.getElementById("count").textContent = shown.length === state.runs.length ? `${shown.length} runs` : `${shown.length} of ${state.runs.length} runs`;
  document.getElementById("empty").hidden = state.runs.length > 0;
  for (const button of document.querySelectorAll("#runs thead button")) {
    const on = button.dataset.by === state.sort[0];
    button.closest("th").setAttribute("aria-sort", on ? (state.sort[1] > 0 ? "ascending" : "descending") : "none");
  }
}

for (const button of document.querySelectorAll("#runs thead button"))
  button.addEventListener("click", () => {
    const by = button.dataset.by;
    state.sort = [by, state.sort[0] === by ? -state.sort[1] : by === "name" || by === "state" ? 1 : -1];
    table();
  });
filter.addEventListener("input", table);
document.getElementById("none").addEventListener("click", () => { state.chosen = []; table(); draw(); });

// ---- the curves

function choose(name, on) {
  state.chosen = on ? [...state.chosen.filter(one => one !== name), name] : state.chosen.filter(one => one !== name);
  if (on && !state.hues.has(name)) state.hues.set(name, state.hues.size);
  table();
  return fetched().then(draw);
}

async function fetched() {
  let changed = false;
  await Promise.all(state.chosen.map(async name => {
    const known = state.known.get(name);
    try {
      const found = await asked(`api/runs/${encodeURIComponent(name)}`, known?.tag);
      if (found) { state.known.set(name, { ...found.body, tag: found.tag }); changed = true; }
    } catch (error) {
      if (known?.wrong !== error.message) { state.known.set(name, { wrong: error.message, charts: [], clocks: [], findings: [] }); changed = true; }
    }
  }));
  return changed;
}

function together() { // one run with everything; of several, one line each
  const told = state.chosen.filter(name => state.known.has(name)).map(name => [name, state.known.get(name)]).filter(([, run]) => run.charts.length);
  if (told.length === 1) return told[0][1];
  const charts = new Map();
  told.forEach(([name, run], clock) => run.charts.forEach(chart => {
    if (!charts.has(chart.id)) charts.set(chart.id, { ...chart, level: null, says: chart.title, series: [] });
    const main = chart.series.filter(one => one.look !== "faint"), into = charts.get(chart.id);
    into.kinds = main.length > 1 ? main.map((one, i) => ({ label: one.label, dash: i > 0 })) : [];
    main.forEach((one, i) => into.series.push({ ...one, clock, hue: state.hues.get(name), dash: i > 0, look: "run", label: main.length > 1 ? `${name}: ${one.label}` : name }));
  }));
  return { charts: [...charts.values()], clocks: told.map(([, run]) => run.clocks[0]), best: null, findings: [] };
}

function coded(text) { // what stands between backticks is code
  const parts = text.split("`");
  return parts.length % 2 ? parts.map((part, i) => i % 2 ? made("code", {}, part) : part) : [text];
}

function findings() {
  const cards = state.chosen.flatMap(name => {
    const run = state.known.get(name);
    if (!run) return [];
    if (run.wrong) return [made("article", { class: "finding error" }, made("h3", {}, name), made("p", {}, run.wrong))];
    return run.findings.map(one => made("article", { class: `finding ${one.severity}`, "data-id": one.id },
      made("h3", {}, made("code", {}, one.id), state.chosen.length > 1 ? ` in ${name}` : ""),
      made("p", { class: "when" }, `${one.severity}, from step ${one.step.toLocaleString("en")} `,
        made("button", { type: "button", onclick: () => state.page?.show(one.step) }, "show it on the curves")),
      made("p", {}, ...coded(one.says)), ...(one.remedy ? [made("p", {}, made("strong", {}, "To do: "), ...coded(one.remedy))] : [])));
  });
  document.getElementById("findings").replaceChildren(...(cards.length ? [made("h2", {}, "What the doctor found"), ...cards] : []));
}

function headline() {
  const run = state.chosen.length === 1 ? state.known.get(state.chosen[0]) : null;
  document.getElementById("headline").textContent = run?.headline ?? (state.chosen.length ? `${state.chosen.length} runs` : "Choose runs to see their curves");
}

function draw() {
  const data = together(), place = document.getElementById("charts");
  headline();
  findings();
  place.hidden = !data.charts.length;
  if (!data.charts.length) return;
  if (!state.page) {
    state.page = wellfit.charts(place, data, { finding: one => document.querySelector(`#findings [data-id="${CSS.escape(one.id)}"]`)?.scrollIntoView({ block: "center" }) });
  } else state.page.update(data);
}

// ---- again and again

async function turn() {
  try {
    const found = await asked("api/runs", state.tag);
    if (found) {
      state.runs = found.body.runs;
      state.tag = found.tag;
      state.more = !found.body.whole;
      document.getElementById("where").textContent = found.body.root;
      const names = new Set(state.runs.map(run => run.name));
      const gone = state.chosen.filter(name => !names.has(name));
      if (gone.length) { state.chosen = state.chosen.filter(name => names.has(name)); gone.forEach(name => state.known.delete(name)); draw(); }
      if (state.first && state.runs.length) { state.first = false; for (const run of listed().slice(0, CHOSEN_FIRST)) await choose(run.name, true); }
      table();
    }
    if (await fetched()) draw();
    state.failed = 0;
    says.textContent = "";
  } catch (error) {
    if (++state.failed > 1) says.textContent = `wellfit ui does not answer: is it still running? (${error.message})`;
  }
  setTimeout(turn, state.more ? 50 : document.hidden ? 5 * EVERY : EVERY);
}
window.live = { state, choose, turn };
turn();
})();
