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

  // Copy buttons: data-copy="#id of the element whose text is copied".
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const source = document.querySelector(button.dataset.copy);
    if (!source) return;
    await navigator.clipboard.writeText(source.value ?? source.textContent);
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
      element.textContent = new Intl.DateTimeFormat(undefined, FORMATS[element.dataset.format] || FORMATS.ymd_hm).format(at);
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

  // Plots: <div data-plot="address of JSON" data-unit="requests">; the JSON is {x: [...seconds], series: [{label, values}]}.
  const resolve = (value) => { const probe = document.createElement("span"); probe.hidden = true; document.body.append(probe); probe.style.color = value; const out = getComputedStyle(probe).color; probe.remove(); return out; };
  const short = (value) => value === null || value === undefined ? "–" : new Intl.NumberFormat(undefined, { notation: Math.abs(value) >= 10000 ? "compact" : "standard", maximumFractionDigits: Math.abs(value) < 1 ? 6 : 2 }).format(value);
  const drawn = new Map();
  const draw = async (holder) => {
    if (!window.uPlot) return;
    let data = drawn.get(holder)?.data;
    if (!data) {
      const response = await fetch(holder.dataset.plot, { headers: { Accept: "application/json" }, credentials: "same-origin" });
      if (!response.ok) return;
      data = await response.json();
    }
    drawn.get(holder)?.plot.destroy();
    const ink = resolve("var(--muted)"), line = resolve("var(--line)");
    const unit = holder.dataset.unit || data.unit || "";
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, font: "12px system-ui, sans-serif" };
    const options = {
      width: Math.max(240, holder.clientWidth), height: 240, cursor: { y: false },
      scales: { x: { time: true }, y: { range: (_, low, high) => [Math.min(0, low ?? 0), high > 0 ? high * 1.08 : 1] } },
      axes: [axis, { ...axis, size: 64, label: unit, labelSize: 18, labelFont: "12px system-ui, sans-serif", values: (_, ticks) => ticks.map(short) }],
      series: [{ label: "Time" }, ...data.series.map((each, index) => ({
        label: each.label, stroke: resolve(`var(--plot-${(index % 5) + 1})`), width: 1.75, dash: index > 2 ? [6, 3] : undefined,
        points: { show: data.x.length < 40 }, value: (_, value) => value === null ? "–" : `${short(value)} ${unit}`.trim(),
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

  // Parts that refresh themselves: data-refresh="seconds" on an element with an id, while the page is looked at.
  for (const element of byAttribute("data-refresh")) setInterval(async () => {
    const part = document.getElementById(element.id);
    if (document.hidden || !part || part.contains(document.activeElement)) return;
    const response = await fetch(location.href, { credentials: "same-origin", redirect: "error" }).catch(() => null);
    if (!response?.ok) return;
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html").getElementById(element.id);
    if (fresh) { part.replaceChildren(...fresh.childNodes); enhance(part); }
  }, Number(element.dataset.refresh) * 1000);

  const enhance = (scope) => { localize(scope); plots(scope); };
  document.addEventListener("htmx:after:swap", (event) => enhance(event.target instanceof Element ? event.target : document));
  document.addEventListener("DOMContentLoaded", () => enhance(document));
})();
