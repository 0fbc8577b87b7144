// What pages of qo-serve can do beyond links and forms: pictures that are dropped or pasted, pages that change in place,
// and where a bit looks. Without it, all else works.
"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const say = (text) => { byId("status").textContent = text; };
  root.classList.add("js");

  // --- pages in place ---------------------------------------------------------------------------------------------
  let going = null;

  async function go(url, { push = true, focus = "found", quiet = false } = {}) {
    if (going) going.abort();
    going = new AbortController();
    if (!quiet) root.classList.add("busy");
    try {
      const reply = await fetch(url, { headers: { Accept: "text/html" }, signal: going.signal });
      const next = new DOMParser().parseFromString(await reply.text(), "text/html");
      if (push) history.pushState(null, "", url);
      show(next, focus, quiet);
    } catch (error) {
      if (error.name !== "AbortError") location.assign(url);
    } finally {
      root.classList.remove("busy");
    }
  }

  function show(next, focus, quiet) {
    const kept = document.activeElement && document.activeElement.id;
    closeLens();
    problem("");
    document.title = next.title;
    for (const part of [".top", "main", "dialog"]) {
      const old = document.querySelector(part), fresh = next.querySelector(part);
      if (old && fresh) old.replaceWith(fresh);
      else if (old) old.remove();
      else if (fresh) document.querySelector("footer").before(fresh);
    }
    pinned = null;
    if (quiet) {
      if (kept && byId(kept)) byId(kept).focus({ preventScroll: true });
    } else {
      const at = byId(focus) || byId("main");
      at.focus({ preventScroll: true });
      window.scrollTo(0, 0);
      const summary = byId("summary");
      say(summary ? summary.textContent : document.title);
    }
    begin();
  }

  function problem(text) {
    const box = byId("problem");
    box.textContent = text;
    box.hidden = !text;
  }

  // What is still being computed is asked for again.
  function begin() {
    const waiting = document.querySelector("[data-again]");
    if (waiting) {
      setTimeout(() => { if (waiting.isConnected) go(location.href, { push: false, quiet: true }); }, Number(waiting.dataset.again));
    }
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href]");
    if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
    const url = new URL(link.href);
    const pages = ["/", "/all", "/results", "/browse", "/same-code", "/duplicates"];
    if (url.origin !== location.origin || url.hash || !(pages.includes(url.pathname) || /^\/(browse|picture)\//.test(url.pathname))) return;
    event.preventDefault();
    go(url.href);
  });
  window.addEventListener("popstate", () => go(location.href, { push: false }));

  // --- pictures that are given ------------------------------------------------------------------------------------
  async function search(file) {
    if (!file) return;
    root.classList.add("busy");
    say("Searching …");
    problem("");
    const form = new FormData();
    form.append("file", file, file.name || "pasted picture");
    try {
      const reply = await fetch("/upload", { method: "POST", body: form, headers: { Accept: "application/json" } });
      const answer = await reply.json();
      if (reply.ok) return await go(answer.location);
      problem(`${answer.detail}.`);
    } catch (error) {
      problem("The server can't be reached, or it refused the file.");
    } finally {
      root.classList.remove("busy");
      for (const field of document.querySelectorAll(".file")) field.value = "";
    }
  }

  const canUpload = () => document.querySelector(".upload") !== null;
  document.addEventListener("change", (event) => {
    if (event.target.matches(".file")) search(event.target.files[0]);
    else if (event.target.closest("#controls")) apply(event.target.form);
    else if (event.target.id === "show-maps") toggleMaps(event.target.checked);
  });
  document.addEventListener("submit", (event) => {
    if (event.target.matches("#controls")) { event.preventDefault(); apply(event.target); }
  });

  function apply(form) {
    if (!form.reportValidity()) return;
    const fields = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
    const kept = document.activeElement && document.activeElement.id;
    go(`/results?${fields}`, { focus: kept || "found" });
  }

  let over = 0;
  const holdsFile = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
  document.addEventListener("dragenter", (event) => { if (holdsFile(event) && canUpload()) { over += 1; root.classList.add("dropping"); } });
  document.addEventListener("dragleave", (event) => { if (holdsFile(event) && --over <= 0) { over = 0; root.classList.remove("dropping"); } });
  document.addEventListener("dragover", (event) => { if (holdsFile(event)) event.preventDefault(); });
  document.addEventListener("drop", (event) => {
    over = 0;
    root.classList.remove("dropping");
    if (!holdsFile(event)) return;
    event.preventDefault();
    if (canUpload()) search(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData ? event.clipboardData.files : [])].find((one) => one.type.startsWith("image/"));
    if (file && canUpload()) { event.preventDefault(); search(file); }
  });

  // --- where a bit looks ------------------------------------------------------------------------------------------
  const maps = new Map();
  const KEPT = 300;

  function mapsOf(view) {
    const url = view && view.dataset.maps;
    if (!url) return Promise.resolve(null);
    if (!maps.has(url)) {
      // What could not be had is asked for again another time.
      const forget = () => { maps.delete(url); return null; };
      maps.set(url, fetch(url).then((reply) => (reply.ok ? reply.json() : forget())).catch(forget));
      if (maps.size > KEPT) maps.delete(maps.keys().next().value);
    }
    return maps.get(url);
  }

  function draw(view, found, bit) {
    const weights = found && found.maps[found.bits.indexOf(bit)];
    let canvas = view.querySelector("canvas");
    if (!weights) { if (canvas) canvas.remove(); return; }
    if (!canvas) {
      canvas = document.createElement("canvas");
      canvas.setAttribute("aria-hidden", "true");
      view.append(canvas);
      place(canvas, view);
    }
    const grid = found.grid;
    const most = Math.max(...weights);
    canvas.width = canvas.height = grid;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(grid, grid);
    weights.forEach((weight, i) => {
      // Dark where it doesn't look, clear where it does, warm where it looks most.
      const share = (weight / most) ** 0.7;
      const warm = Math.max(0, share - 0.55) / 0.45;
      pixels.data.set([255 * warm, 120 * warm, 8, 255 * (0.78 * (1 - share) * (1 - warm) + 0.42 * warm)], 4 * i);
    });
    context.putImageData(pixels, 0, 0);
    canvas.dataset.bit = bit;
  }

  // Over the square that the model saw, which is outlined where it is not all of the picture.
  function place(canvas, view) {
    const outline = view.querySelector(".seen rect");
    if (!outline) return;
    const all = view.getBoundingClientRect(), part = outline.getBoundingClientRect();
    canvas.style.left = `${(100 * (part.left - all.left)) / all.width}%`;
    canvas.style.top = `${(100 * (part.top - all.top)) / all.height}%`;
    canvas.style.width = `${(100 * part.width) / all.width}%`;
    canvas.style.height = `${(100 * part.height) / all.height}%`;
  }

  async function overlay(view, bit) {
    if (!view) return;
    view.dataset.bit = bit === null ? "" : bit;
    if (bit === null) return draw(view, null, 0);
    const found = await mapsOf(view);
    if (view.dataset.bit === String(bit)) draw(view, found, bit);
  }

  // A bit is shown while it is pointed at or chosen in a strip with the keyboard, and stays while the panel is open.
  let shown = null;
  let pinned = null;
  const cardOf = (strip) => strip.closest(".card");
  const queryView = () => byId("asked-view");

  function mark(bit) {
    for (const one of document.querySelectorAll("rect.on")) one.classList.remove("on");
    if (bit === null) return;
    for (const one of document.querySelectorAll(`main rect[data-bit="${bit}"]`)) one.classList.add("on");
  }

  function point(strip, bit) {
    unpoint();
    shown = { strip, bit };
    mark(bit);
    overlay(queryView(), bit);
    const card = cardOf(strip);
    if (card) overlay(card.querySelector(".view"), bit);
  }

  function unpoint() {
    if (!shown) return;
    const card = cardOf(shown.strip);
    if (card) overlay(card.querySelector(".view"), null);
    overlay(queryView(), pinned ? pinned.bit : null);
    mark(pinned ? pinned.bit : null);
    if (pinned && pinned.card) overlay(pinned.card.querySelector(".view"), pinned.bit);
    shown = null;
  }

  const bitOf = (node) => Number(node.dataset.bit);
  document.addEventListener("pointerover", (event) => {
    const cell = event.target.closest && event.target.closest("rect[data-bit]");
    if (cell && event.pointerType !== "touch") point(cell.closest("svg"), bitOf(cell));
    else if (shown && !(document.activeElement === shown.strip)) unpoint();
  });
  document.addEventListener("click", (event) => {
    const strip = event.target.closest && event.target.closest("svg[role=listbox]");
    if (!strip) return;
    const cell = event.target.closest("rect[data-bit]") || nearest(strip, event);
    if (cell) choose(strip, bitOf(cell), true);
  });

  // Squares are small for a finger: the nearest one counts.
  function nearest(strip, event) {
    let best = null, least = Infinity;
    for (const cell of strip.querySelectorAll("rect[data-bit]")) {
      const box = cell.getBoundingClientRect();
      const far = Math.hypot(box.x + box.width / 2 - event.clientX, box.y + box.height / 2 - event.clientY);
      if (far < least) [best, least] = [cell, far];
    }
    return best;
  }

  function active(strip) {
    const id = strip.getAttribute("aria-activedescendant");
    return id ? bitOf(byId(id)) : null;
  }

  function choose(strip, bit, open) {
    const cells = strip.querySelectorAll("rect[data-bit]");
    const cell = cells[(bit + cells.length) % cells.length];
    for (const one of cells) one.removeAttribute("aria-selected");
    cell.setAttribute("aria-selected", "true");
    strip.setAttribute("aria-activedescendant", cell.id);
    point(strip, bitOf(cell));
    if (open) openLens(strip, bitOf(cell));
    else if (pinned && pinned.strip === strip) openLens(strip, bitOf(cell));
  }

  document.addEventListener("focusin", (event) => {
    const strip = event.target.closest && event.target.closest("svg[role=listbox]");
    if (strip && strip.matches(":focus-visible")) choose(strip, active(strip) ?? 0, false);
    else if (shown && !event.target.closest("dialog")) unpoint();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && pinned) { closeLens(true); return; }
    const inside = pinned && event.target.closest("#lens");
    const strip = inside ? pinned.strip : event.target.closest && event.target.closest("svg[role=listbox]");
    if (!strip) return;
    const at = inside ? pinned.bit : active(strip) ?? 0;
    const last = strip.querySelectorAll("rect[data-bit]").length - 1;
    const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: last }[event.key];
    if (to !== undefined) { event.preventDefault(); choose(strip, to, false); }
    else if (!inside && (event.key === "Enter" || event.key === " ")) { event.preventDefault(); choose(strip, at, true); }
  });

  // --- the panel of a bit -----------------------------------------------------------------------------------------
  const titleOf = (cell) => (cell && cell.querySelector("title") ? cell.querySelector("title").textContent : "");
  const cellOf = (strip, bit) => strip && strip.querySelector(`rect[data-bit="${bit}"]`);

  function openLens(strip, bit) {
    const lens = byId("lens");
    if (!lens) return;
    const before = pinned;
    const card = cardOf(strip) || (before && before.card && before.card.isConnected ? before.card : null) || document.querySelector(".card");
    pinned = { strip, bit, card };
    byId("lens-title").textContent = `Bit ${bit}`;
    const asked = document.querySelector(".asked .strip");
    const hit = card && card.querySelector(".strip");
    side("query", queryView(), cellOf(asked, bit), bit);
    side("hit", card && card.querySelector(".view"), cellOf(hit, bit), bit);
    const differ = cellOf(hit, bit) && cellOf(hit, bit).classList.contains("other");
    byId("lens-hit-value").classList.toggle("differ", Boolean(differ));
    const note = byId("lens-note");
    note.textContent = lens.dataset.explains === "yes" ? "Bright is where the bit looks, orange where it looks most." : "";
    if (before && before.card !== card && before.card) overlay(before.card.querySelector(".view"), null);
    mark(bit);
    overlay(queryView(), bit);
    if (card) overlay(card.querySelector(".view"), bit);
    if (!lens.open) lens.show();
    describe(bit);
    say(`Bit ${bit}. Query: ${byId("lens-query-value").textContent}. Hit: ${byId("lens-hit-value").textContent}`);
  }

  async function side(name, view, cell, bit) {
    const box = byId(`lens-${name}-side`);
    box.hidden = !view;
    byId(`lens-${name}-value`).textContent = titleOf(cell).replace(/^bit \d+: /, "");
    if (!view) return;
    const here = byId(`lens-${name}`), from = view.querySelector("img");
    if (here.querySelector("img").src !== from.src) {
      draw(here, null, 0);
      here.querySelector("img").src = from.src;
      here.querySelector("img").alt = from.alt;
      for (const one of here.querySelectorAll(".seen")) one.remove();
      const outline = view.querySelector(".seen");
      if (outline) here.append(outline.cloneNode(true));
    }
    const found = await mapsOf(view);
    if (pinned && pinned.bit === bit) draw(here, found, bit);
    if (found === null && view.dataset.maps && byId("lens").dataset.explains === "yes") {
      byId("lens-note").textContent = "Where it looks in one of the pictures is not known: its file can't be read, or the server is busy.";
    }
  }

  const bitCards = new Map();
  async function describe(bit) {
    const card = byId("lens-card");
    card.replaceChildren();
    if (!bitCards.has(bit)) bitCards.set(bit, fetch(`/bits?bit=${bit}&count=4`).then((reply) => (reply.ok ? reply.json() : null)).catch(() => null));
    const found = await bitCards.get(bit);
    if (!found || !pinned || pinned.bit !== bit) return;
    const { ones, highest, lowest, meaning } = found[0];
    if (ones === null) bitCards.delete(bit);
    const make = (tag, text, attributes = {}) => {
      const node = document.createElement(tag);
      if (text) node.textContent = text;
      for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
      return node;
    };
    const parts = [];
    if (ones !== null) parts.push(make("p", `1 in ${(100 * ones).toFixed(1)} % of the pictures`));
    if (meaning && meaning.attribute) {
      const line = make("p", "follows ");
      line.append(make("strong", (meaning.positive ? "" : "not ") + meaning.attribute), ` (balanced accuracy ${meaning.accuracy.toFixed(3)})`);
      parts.push(line);
    }
    for (const [value, images] of [["1", highest], ["0", lowest]]) {
      if (!images.length) continue;
      const row = make("div", "", { class: "strip-of" });
      row.append(make("span", value, { class: "value" }));
      for (const image of images) {
        const link = make("a", "", { href: `/picture/${image.id}`, title: `Sure that the bit is ${value} (${image.margin} of 127)` });
        link.append(make("img", "", { src: `/image/${image.id}?size=256&fallback=true`, alt: `Most sure that bit ${bit} is ${value}`, width: 256, height: 256 }));
        row.append(link);
      }
      parts.push(row);
    }
    parts.push(make("a", `Browse bit ${bit}`, { href: `/browse/${bit}` }));
    card.replaceChildren(...parts);
  }

  function closeLens(restore = false) {
    const lens = byId("lens");
    if (!pinned || !lens) return;
    const { strip, card } = pinned;
    pinned = null;
    lens.close();
    overlay(queryView(), null);
    if (card) overlay(card.querySelector(".view"), null);
    mark(null);
    if (restore && strip.isConnected) strip.focus();
  }

  document.addEventListener("click", (event) => {
    if (!pinned) return;
    const step = { "lens-before": -1, "lens-next": 1 }[event.target.id];
    if (step) choose(pinned.strip, pinned.bit + step, true);
    else if (event.target.id === "lens-close") closeLens(true);
  });

  // --- paths ------------------------------------------------------------------------------------------------------
  document.addEventListener("click", async (event) => {
    const button = event.target.closest && event.target.closest("[data-copy]");
    if (!button) return;
    let copied = true;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
    } catch (error) {
      // Without TLS, browsers have no clipboard but this one.
      const field = document.createElement("textarea");
      field.value = button.dataset.copy;
      button.after(field);
      field.select();
      copied = document.execCommand("copy");
      field.remove();
      button.focus();
    }
    button.textContent = copied ? "Copied" : "Not copied";
    say(`${button.textContent}: ${button.dataset.copy}`);
    setTimeout(() => { button.textContent = "Copy path"; }, 1500);
  });

  // --- where one bit looks in all pictures of its page --------------------------------------------------------------
  async function toggleMaps(on) {
    for (const view of document.querySelectorAll(".sides .view[data-maps]")) {
      if (!on) { draw(view, null, 0); continue; }
      const found = await mapsOf(view);
      if (!byId("show-maps") || !byId("show-maps").checked || !view.isConnected) return;
      if (found) draw(view, found, found.bits[0]);
    }
  }

  begin();
})();
