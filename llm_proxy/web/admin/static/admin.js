// The admin UI's own script: copy buttons, local times, theme, jump box, confirmations, plots. Pages work without it.
"use strict";
(() => {
  const root = document.documentElement;
  const byAttribute = (name, scope) => (scope || document).querySelectorAll(`[${name}]`);

  // Theme: light, dark, or the system's.
  const stored = (() => { try { return localStorage.getItem("llm-proxy-theme"); } catch { return null; } })();
  if (stored === "light" || stored === "dark") root.dataset.theme = stored;
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-theme-toggle]");
    if (!button) return;
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
    try { localStorage.setItem("llm-proxy-theme", root.dataset.theme); } catch { /* private mode: for this page only */ }
    document.dispatchEvent(new CustomEvent("llm-proxy:theme"));
  });

  // Without HTTPS browsers have no clipboard but for what is selected.
  const copy = async (source) => {
    if (navigator.clipboard) return navigator.clipboard.writeText(source.value ?? source.textContent);
    getSelection().selectAllChildren(source);
    document.execCommand("copy");
    getSelection().removeAllRanges();
    return undefined;
  };

  // Copy buttons: data-copy="#id of the element whose text is copied".
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const source = document.querySelector(button.dataset.copy);
    if (!source) return;
    await copy(source);
    const label = button.querySelector("[data-label]") || button;
    const before = label.textContent;
    label.textContent = "Copied";
    setTimeout(() => { label.textContent = before; }, 1500);
  });

  // Times: <time datetime data-format>; the text is UTC without script, local with it, UTC stays in the title.
  const FORMATS = {
    ymd_hm: { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" },
    ymd_hms: { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" },
    ymd_hms_tz: { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZoneName: "short" },
    long: { dateStyle: "full", timeStyle: "long" },
    date_only: { dateStyle: "medium" },
  };
  const localize = (scope) => {
    for (const element of (scope || document).querySelectorAll("time[data-local-time]")) {
      const at = new Date(element.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      element.title = element.dateTime.replace("T", " ").replace(/(\.\d+)?(Z|\+00:00)$/, " UTC");
      const wanted = FORMATS[element.dataset.format] || FORMATS.ymd_hm;
      const isShort = wanted === FORMATS.ymd_hm && at.getFullYear() === new Date().getFullYear();
      element.textContent = new Intl.DateTimeFormat(undefined, isShort ? { ...wanted, year: undefined } : wanted).format(at);
      element.removeAttribute("data-local-time");
    }
  };

  // Jump box: Ctrl or Command and K.
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      const box = document.querySelector("[data-jump]");
      if (box) { event.preventDefault(); box.focus(); box.select(); }
    }
  });

  // One submit per form: the button is disabled while the request runs.
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.matches("form[data-once]")) return;
    const button = event.submitter || form.querySelector("[type=submit]");
    if (button) setTimeout(() => { button.disabled = true; }, 0);
  });
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) for (const button of document.querySelectorAll("form[data-once] [type=submit]")) button.disabled = false;
  });

  // "Select all" in tables with check boxes.
  document.addEventListener("change", (event) => {
    const all = event.target.closest("[data-check-all]");
    if (all) for (const box of document.querySelectorAll(all.dataset.checkAll)) box.checked = all.checked;
    const auto = event.target.closest("form[data-auto-submit]");
    if (auto) auto.requestSubmit();
  });

  // Plots: data-plot is an address of JSON, data-plot-values the JSON itself: {x: [...seconds], series: [{label, values}]}.
  // data-unit is their unit; data-zone="UTC" marks steps of a UTC day.
  const resolve = (value) => { const probe = document.createElement("span"); probe.hidden = true; document.body.append(probe); probe.style.color = value; const out = getComputedStyle(probe).color; probe.remove(); return out; };
  const number = (value, digits) => new Intl.NumberFormat(undefined, { notation: Math.abs(value) >= 10000 ? "compact" : "standard", maximumFractionDigits: digits ?? (Math.abs(value) < 1 ? 6 : 2) }).format(value);
  const quantity = (value, unit) => {
    if (value === null || value === undefined) return "–";
    if (unit === "ms") return Math.abs(value) >= 1000 ? `${number(value / 1000)} s` : `${number(value, 0)} ms`;
    if (unit === "%") return `${number(value, 1)} %`;
    return unit === "USD" ? `${number(value)} USD` : `${number(value)} ${unit}`.trim();
  };
  const tick = (value, unit) => unit === "ms" || unit === "%" ? quantity(value, unit) : number(value);
  const moment = (seconds, zone, options) => new Intl.DateTimeFormat(undefined, { timeZone: zone, hourCycle: "h23", ...options }).format(seconds * 1000);
  const when = (plot, ticks, zone) => {
    const isDaily = ticks.length > 1 && ticks[1] - ticks[0] >= 86400;
    return ticks.map((seconds) => {
      const clock = moment(seconds, zone, { hour: "2-digit", minute: "2-digit" });
      return isDaily || clock === "00:00" ? moment(seconds, zone, { day: "numeric", month: "short" }) : clock;
    });
  };
  const lonely = (values) => (plot, series, show) => show ? null : values.flatMap((value, at) => value !== null && (values[at - 1] ?? null) === null && (values[at + 1] ?? null) === null ? [at] : []);
  const drawn = new Map();
  const read = async (holder) => {
    if (holder.dataset.plotValues) return JSON.parse(holder.dataset.plotValues);
    const response = await fetch(holder.dataset.plot, { headers: { Accept: "application/json" }, credentials: "same-origin" });
    return response.ok ? response.json() : null;
  };
  const draw = async (holder) => {
    if (!window.uPlot) return;
    const data = drawn.get(holder)?.data ?? await read(holder);
    if (!data) return;
    drawn.get(holder)?.plot.destroy();
    const ink = resolve("var(--muted)"), line = resolve("var(--line)"), font = "12px system-ui, sans-serif";
    const unit = holder.dataset.unit || "", zone = holder.dataset.zone || undefined;
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1, size: 4 }, font, labelFont: font };
    const isCounted = unit === "requests" || unit === "tokens" || unit === "ms";
    const options = {
      width: Math.max(200, holder.clientWidth), height: 220, padding: [12, 22, 0, 0], cursor: { y: false, points: { size: 7 } },
      tzDate: (seconds) => zone ? window.uPlot.tzDate(new Date(seconds * 1000), zone) : new Date(seconds * 1000),
      scales: { x: { time: true }, y: { range: (_, low, high) => unit === "%" ? [0, 100] : [0, high > 0 ? high * 1.1 : 1] } },
      axes: [
        { ...axis, space: 56, values: (plot, ticks) => when(plot, ticks, zone) },
        { ...axis, size: 66, space: 32, incrs: isCounted ? [1, 2, 5].flatMap((each) => [...Array(13).keys()].map((power) => each * 10 ** power)).sort((one, other) => one - other) : undefined, values: (_, ticks) => ticks.map((value) => tick(value, unit)) },
      ],
      series: [{ label: zone ? "Day" : "Time", value: (_, seconds) => seconds === null ? "–" : moment(seconds, zone, zone ? { day: "numeric", month: "short" } : { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" }) },
        ...data.series.map((each, index) => ({
          label: each.label, stroke: resolve(`var(--plot-${(index % 5) + 1})`), width: 1.75, dash: [undefined, [7, 3], [2, 3]][index % 3],
          fill: index === 0 ? resolve("var(--plot-fill)") : undefined,
          points: { show: data.x.length < 16, size: 5, filter: lonely(each.values) }, value: (_, value) => quantity(value, unit),
        }))],
    };
    holder.replaceChildren();
    drawn.set(holder, { data, plot: new window.uPlot(options, [data.x, ...data.series.map((each) => each.values)], holder) });
  };
  const plots = (scope) => { for (const holder of byAttribute("data-plot", scope)) draw(holder); };
  let pending;
  const redraw = () => { clearTimeout(pending); pending = setTimeout(() => { for (const holder of drawn.keys()) if (holder.isConnected) draw(holder); else drawn.delete(holder); }, 120); };
  window.addEventListener("resize", redraw);
  document.addEventListener("llm-proxy:theme", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  // Parts that htmx refreshes wait while nothing looks at them, and while something in them is used.
  document.addEventListener("htmx:before:request", (event) => {
    const part = event.target.closest?.("[data-live]");
    if (part && (document.hidden || part.contains(document.activeElement) || part.querySelector("details[open]"))) event.preventDefault();
  });

  const enhance = (scope) => { localize(scope); plots(scope); };
  document.addEventListener("htmx:after:swap", (event) => enhance(event.target instanceof Element ? event.target : document));
  document.addEventListener("DOMContentLoaded", () => enhance(document));
})();
