// Draws the panels of `board` (data.js) where their grid has them, by uPlot, in Grafana's sizes and colours.

const CELL = 30, GAP = 8, COLUMN = board.width / 24;
const NAMED = { green: "#73bf69", yellow: "#f2cc0c", red: "#f2495c", orange: "#ff780a", blue: "#5794f2", purple: "#b877d9",
  "dark-red": "#c4162a", "light-blue": "#8ab8ff" };
const CLASSIC = ["#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9", "#705da0", "#37872d", "#fade2a"];

const short = (v, base, names) => {
  let n = 0;
  while (Math.abs(v) >= base && n < names.length - 1) { v /= base; n += 1; }
  return [Number(v.toPrecision(3)).toString(), names[n]];
};
const spans = v => {
  for (const [name, size] of [["days", 86400], ["hours", 3600], ["min", 60], ["s", 1]]) if (Math.abs(v) >= size) return `${Number((v / size).toPrecision(3))} ${name}`;
  if (v === 0) return "0 s";
  return Math.abs(v) >= 1e-3 ? `${Number((v * 1e3).toPrecision(3))} ms` : `${Number((v * 1e6).toPrecision(3))} µs`;
};
const named = (v, mappings = []) => mappings.map(m => m.options[v]?.text).find(t => t);
const formats = {
  s: spans,
  bytes: v => short(v, 1024, ["B", "KiB", "MiB", "GiB", "TiB"]).join(" "),
  percentunit: v => `${Number((v * 100).toPrecision(3))}%`,
  currencyUSD: v => `$${Number(v.toPrecision(3))}`,
};
function text(v, unit) {
  if (v === null || v === undefined) return "No data";
  if (formats[unit]) return formats[unit](v);
  const plain = short(v, 1000, ["", " K", " Mil", " Bil"]).join("");
  if (unit === "reqps") return `${plain} req/s`;
  if (unit === "ops") return `${plain} ops/s`;
  return unit.startsWith("suffix:") ? plain + unit.slice(7) : plain;
}

function element(kind, parent, style = {}, content = "") {
  const made = document.createElement(kind);
  Object.assign(made.style, style);
  made.textContent = content;
  return parent.appendChild(made);
}
function box(panel, name) {
  const at = panel.gridPos, made = element("div", document.body, {
    left: `${at.x * COLUMN + GAP / 2}px`, top: `${at.y * (CELL + GAP) + GAP / 2}px`,
    width: `${at.w * COLUMN - GAP}px`, height: `${at.h * (CELL + GAP) - GAP}px`,
  });
  made.className = name;
  return made;
}

function stat(panel, root) {
  const series = panel.series[0];
  if (!series) return;
  const last = series.values.filter(v => v !== null).at(-1);
  const steps = panel.fieldConfig.defaults.thresholds.steps;
  const color = NAMED[steps.filter(s => s.value === null || last >= s.value).at(-1).color];
  if (panel.options.graphMode === "area") {
    const spark = element("div", root);
    spark.className = "spark";
    new uPlot({ width: root.clientWidth, height: 50, cursor: { show: false }, legend: { show: false }, axes: [{ show: false }, { show: false }], padding: [2, 0, 0, 0],
      scales: { x: { time: true } }, series: [{}, { stroke: color, fill: `${color}30`, width: 1, points: { show: false } }] }, [panel.times, series.values], spark);
  }
  element("div", root, { color }, named(last, panel.fieldConfig.defaults.mappings) ?? text(last, panel.fieldConfig.defaults.unit)).className = "value";
}

function override(panel, series) {
  const found = {};
  for (const o of panel.fieldConfig.overrides) {
    const fits = o.matcher.id === "byName" ? o.matcher.options === series.name : new RegExp(o.matcher.options.slice(1, -1)).test(series.name);
    if (fits) for (const p of o.properties) found[p.id] = p.value;
  }
  return found;
}
const alpha = defaults => Math.round(defaults.custom.fillOpacity * 2.55).toString(16).padStart(2, "0");
const BINARY = Array.from({ length: 50 }, (_, n) => 2 ** n);

function axis(scale, unit, side, mappings) {
  return { scale, side, stroke: "#9d9fa5", font: "11px Inter", size: (u, marks) => 12 + 6.3 * Math.max(3, ...(marks ?? []).map(m => m.length)), grid: { show: side === 3, stroke: "#25282e", width: 1 }, ticks: { show: false }, incrs: unit === "bytes" ? BINARY : undefined,
    values: (u, marks) => marks.map(v => mappings ? named(v, mappings) ?? "" : text(v, unit)) };
}
function graph(panel, root) {
  const defaults = panel.fieldConfig.defaults, isStacked = defaults.custom.stacking.mode === "normal";
  const legend = element("div", root);
  legend.className = "legend";
  if (!panel.series.length) { element("div", root, {}, "No data").className = "empty"; return; }
  const scales = { x: { time: true } }, lines = [{}], bands = [], columns = [panel.times], axes = [
    { stroke: "#9d9fa5", font: "11px Inter", grid: { stroke: "#25282e", width: 1 }, ticks: { show: false }, size: 26, space: 80,
      values: (u, marks) => marks.map(m => new Date(m * 1000).toISOString().slice(11, 16)) }];
  let below = panel.times.map(() => 0);
  panel.series.forEach((series, n) => {
    const own = override(panel, series), unit = own.unit ?? defaults.unit;
    const side = own["custom.axisPlacement"] === "right" ? 1 : 3, scale = `${unit}${side}`;
    if (!scales[scale]) {
      const low = defaults.min, high = defaults.max;
      scales[scale] = { range: (u, a, b) => {
        const [from, to] = uPlot.rangeNum(a ?? 0, b || 1, 0.1, true);
        return [low ?? from, high ?? (to > (low ?? from) ? to : 1)];
      } };
      axes.push(axis(scale, unit, side, defaults.mappings));
    }
    const fixed = (own.color ?? defaults.color).fixedColor, color = fixed ? NAMED[fixed] : CLASSIC[n % CLASSIC.length];
    const values = isStacked ? series.values.map((v, i) => below[i] + (v ?? 0)) : series.values;
    if (isStacked) below = values;
    if (isStacked && n) bands.push({ series: [n + 1, n], fill: `${color}${alpha(defaults)}` });
    columns.push(values);
    lines.push({ scale, stroke: color, width: defaults.custom.lineWidth, fill: `${color}${alpha(defaults)}`, points: { show: false }, spanGaps: defaults.custom.spanNulls,
      paths: defaults.custom.lineInterpolation === "stepAfter" ? uPlot.paths.stepped({ align: 1 }) : undefined });
    const entry = element("span", legend);
    element("i", entry, { background: color });
    entry.append(series.name);
  });
  const plot = element("div", root);
  new uPlot({ width: root.clientWidth - 8, height: root.clientHeight - 34 - legend.clientHeight - 6, cursor: { show: false }, legend: { show: false }, padding: [8, 14, 0, 0], bands,
    scales, axes, series: lines }, columns, plot);
}

for (const panel of board.panels) {
  if (panel.type === "row") { element("span", box(panel, "row"), {}, `⌄ ${panel.title}`); continue; }
  const root = box(panel, "panel");
  element("div", root, {}, panel.title).className = "title";
  (panel.type === "stat" ? stat : graph)(panel, root);
}
