// Pages that go on: the tail of events, and the playground. Text is only ever set as text.
"use strict";
(() => {
  const part = (name) => document.querySelector(`[data-${name}]`);
  const MOST_ROWS = 200;

  // Events: one row each, the newest first.
  const body = part("tail");
  if (body) {
    const state = part("tail-state"), toggle = part("tail-toggle");
    const cell = (row, value, kind) => { const made = document.createElement("td"); made.textContent = value ?? "–"; if (kind) made.className = kind; row.append(made); return made; };
    const GOOD = new Set(["ok", "revalidated"]);
    let source, count = 0;
    const show = (event) => {
      const row = document.createElement("tr");
      cell(row, event.at ? new Date(event.at).toLocaleTimeString() : "–", "nowrap").title = event.at || "";
      const badge = document.createElement("span");
      badge.className = `badge ${GOOD.has(event.outcome) ? "ok" : "bad"}`;
      badge.textContent = event.outcome || "–";
      cell(row, "").replaceChildren(badge);
      cell(row, event.status, "num");
      const code = document.createElement("code");
      code.textContent = `${event.method} ${event.path}`;
      cell(row, "", "name").replaceChildren(code);
      cell(row, event.duration_ms === null ? null : Math.round(event.duration_ms), "num");
      cell(row, event.first_byte_ms === null ? null : Math.round(event.first_byte_ms), "num");
      cell(row, event.token_id ? `${event.token_id.slice(0, 8)}…` : null).title = event.token_id || "";
      body.prepend(row);
      while (body.rows.length > MOST_ROWS) body.lastElementChild.remove();
      count += 1;
      state.textContent = `Following; ${count} ${count === 1 ? "event" : "events"} so far.`;
    };
    const follow = () => {
      source = new EventSource(body.dataset.tail);
      source.onopen = () => { state.textContent = count ? `Following; ${count} so far.` : "Following; waiting for the next exchange."; };
      source.onmessage = (message) => show(JSON.parse(message.data));
      source.onerror = () => { state.textContent = "The connection ended; trying again."; };
      toggle.textContent = "Pause";
    };
    toggle.addEventListener("click", () => {
      if (source) { source.close(); source = undefined; toggle.textContent = "Follow"; state.textContent = "Paused."; } else follow();
    });
    window.addEventListener("pagehide", () => source?.close());
    follow();
  }

  // Playground: a token made for it, then one streamed completion.
  const form = document.querySelector("form[data-playground]");
  if (!form) return;
  const answer = part("playground-answer"), fields = part("playground-fields"), facts = part("playground-facts");
  const state = part("playground-state"), stop = part("playground-stop"), send = form.querySelector("[type=submit]");
  let token, cutter;
  const fact = (name, value) => { const dt = document.createElement("dt"), dd = document.createElement("dd"); dt.textContent = name; dd.textContent = value; facts.append(dt, dd); };
  const issue = async (project) => {
    if (token?.project === project && token.until > Date.now()) return token;
    const response = await fetch(form.action, { method: "POST", body: new URLSearchParams({ project_id: project, csrf_token: form.elements.csrf_token.value }), credentials: "same-origin" });
    const made = await response.json().catch(() => ({}));
    if (!response.ok) throw new Error(made.error || `No token: HTTP ${response.status}`);
    return { ...made, project, until: Date.now() + 9 * 60000 };
  };
  const read = async (response, began) => {
    const reader = response.body.getReader(), decoder = new TextDecoder();
    let held = "", usage, first;
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return { usage, first };
      first ??= performance.now() - began;
      held += decoder.decode(value, { stream: true });
      const lines = held.split("\n");
      held = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:") || line.includes("[DONE]")) continue;
        const piece = JSON.parse(line.slice(5));
        answer.textContent += piece.choices?.[0]?.delta?.content ?? "";
        usage = piece.usage ?? usage;
      }
    }
  };
  const run = async () => {
    const data = new FormData(form);
    token = await issue(data.get("project_id"));
    const body = { model: data.get("model"), stream: true, stream_options: { include_usage: true }, messages: [{ role: "user", content: data.get("prompt") }] };
    if (data.get("max_tokens")) body.max_tokens = Number(data.get("max_tokens"));
    const began = performance.now();
    const response = await fetch(`${token.base}/chat/completions`, { method: "POST", headers: { Authorization: `Bearer ${token.token}`, "Content-Type": "application/json" }, body: JSON.stringify(body), signal: cutter.signal, credentials: "same-origin" });
    fields.textContent = [`HTTP ${response.status}`, ...[...response.headers].map(([name, value]) => `${name}: ${value}`)].join("\n");
    fact("Header section", `${Math.round(performance.now() - began)} ms`);
    if (!response.ok) {
      const error = await response.json().catch(() => ({}));
      throw new Error(error.error?.message || `HTTP ${response.status}`);
    }
    const found = await read(response, began);
    if (found.first) fact("First byte", `${Math.round(found.first)} ms`);
    fact("Total", `${Math.round(performance.now() - began)} ms`);
    if (found.usage) fact("Usage", `${found.usage.prompt_tokens} prompt, ${found.usage.completion_tokens} completion`);
    await cost();
  };
  const cost = async () => {
    const address = form.dataset.playground.replace("/ID/", `/${token.id}/`);
    for (let turn = 0; turn < 8; turn += 1) {
      const used = await (await fetch(address, { credentials: "same-origin" })).json();
      if (used.total_tokens) { fact("Cost of this token so far", used.total_cost_usd === null ? "the model has no price" : `${used.total_cost_usd} USD for ${used.total_tokens} tokens`); return; }
      await new Promise((done) => { setTimeout(done, 500); });
    }
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    cutter = new AbortController();
    answer.textContent = fields.textContent = "";
    facts.replaceChildren();
    send.disabled = true; stop.disabled = false; state.textContent = "Running";
    try { await run(); state.textContent = "Done"; } catch (error) { state.textContent = error.name === "AbortError" ? "Stopped" : error.message; }
    send.disabled = false; stop.disabled = true;
  });
  stop.addEventListener("click", () => cutter?.abort());
})();
