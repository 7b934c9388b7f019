// What the pages do by themselves: tell the time, follow what happens, answer keys. Without it they are all there.
"use strict";
(() => {
  const root = document.documentElement;
  const page = {every: 0, etag: null, held: false, failed: 0};

  // ---- light or dark: before the first paint

  const theme = localStorage.getItem("durable-theme");
  if (theme) root.dataset.theme = theme;

  function switchTheme() {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    localStorage.setItem("durable-theme", root.dataset.theme);
  }

  // ---- times

  const UNITS = [["w", 604800], ["d", 86400], ["h", 3600], ["m", 60], ["s", 1]];

  function span(seconds) {
    const parts = [];
    let rest = Math.max(0, Math.round(seconds));
    for (const [unit, size] of UNITS) {
      const count = Math.floor(rest / size);
      if (count || parts.length) parts.push(count ? `${count}${unit}` : "");
      rest -= count * size;
      if (parts.length === 2) break;
    }
    return parts.join("") || "0s";
  }

  function told(element) {
    const seconds = (Date.parse(element.dateTime) - Date.now()) / 1000;
    switch (element.dataset.time) {
      case "ago": return `${span(-seconds)} ago`;
      case "since": return span(-seconds);
      case "until": return seconds > 0.5 ? `${span(seconds)} left` : "now";
      default: return null;
    }
  }

  function tellTimes(within) {
    for (const element of within.querySelectorAll("time[data-time]")) {
      const text = told(element);
      if (text !== null && element.textContent !== text) element.textContent = text;
    }
  }

  // ---- following what happens: the page is asked for again, and what differs in it is changed in place

  function sign(state, text) {
    const element = document.querySelector("[data-live-sign]");
    if (!element) return;
    element.dataset.state = state;
    element.querySelector(".live-text").textContent = text;
  }

  async function follow() {
    if (document.hidden || page.held || document.querySelector("dialog[open]:not(#keys)")) return;
    let answer;
    try {
      const headers = page.etag ? {"If-None-Match": page.etag} : {};
      answer = await fetch(location.href, {headers, cache: "no-store", credentials: "same-origin", redirect: "manual"});
    } catch {
      answer = null;
    }
    if (answer && answer.status === 304) {
      page.failed = 0;
      sign("live", "live");
    } else if (answer && answer.ok) {
      page.failed = 0;
      page.etag = answer.headers.get("ETag");
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of document.querySelectorAll("[data-live]")) {
        const other = fresh.getElementById(part.id);
        if (other) change(part, other);
      }
      for (const other of fresh.querySelectorAll("[data-live]")) {
        if (!document.getElementById(other.id)) { location.reload(); return; }
      }
      tellTimes(document);
      page.every = Number(fresh.body.dataset.liveEvery || 0);
      sign(page.every ? "live" : "", page.every ? "live" : "");
    } else {
      page.failed += 1;
      const out = answer && (answer.type === "opaqueredirect" || answer.status === 401 || answer.status === 403);
      sign("lost", out ? "signed out" : "no answer");
    }
  }

  async function followAlways() {
    await follow();
    if (page.every) setTimeout(followAlways, page.every * Math.min(2 ** page.failed, 16));
  }

  // Make one element like another, keeping all that is the same: what is open stays open, what is focused focused.
  function change(old, fresh) {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
      old.replaceWith(document.importNode(fresh, true));
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
      return;
    }
    if (old.matches("time[data-time]") && old.dateTime === fresh.dateTime && old.dataset.time === fresh.dataset.time) return;
    for (const {name, value} of fresh.attributes) {
      if (old.getAttribute(name) !== value && !(name === "open" && old.nodeName === "DETAILS")) old.setAttribute(name, value);
    }
    for (const {name} of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && name !== "open" && name !== "class") old.removeAttribute(name);
    }
    if (!fresh.hasAttribute("class") && old.hasAttribute("class")) old.removeAttribute("class");
    if (old.matches("input, select, textarea")) return;
    if (old.children.length && [...old.children].every((child) => child.id)) changeRows(old, fresh);
    else changeChildren(old, fresh);
  }

  function changeChildren(old, fresh) {
    const now = [...old.childNodes], wanted = [...fresh.childNodes];
    wanted.forEach((node, place) => {
      if (place < now.length) change(now[place], node);
      else old.append(document.importNode(node, true));
    });
    now.slice(wanted.length).forEach((node) => node.remove());
  }

  // Rows have names. New ones are held back while somebody reads further down, so that nothing moves under the eye.
  function changeRows(old, fresh) {
    const known = new Map([...old.children].map((row) => [row.id, row]));
    const wanted = [...fresh.children];
    const newcomers = wanted.filter((row) => !known.has(row.id));
    const reads = old.contains(document.activeElement) || old.getBoundingClientRect().top < 0;
    if ("hold" in old.dataset && newcomers.length && reads && known.size) {
      for (const row of wanted) if (known.has(row.id)) change(known.get(row.id), row);
      hold(old, newcomers.length);
      return;
    }
    hold(old, 0);
    let before = old.firstElementChild;
    for (const row of wanted) {
      let here = known.get(row.id);
      if (here) {
        known.delete(row.id);
        change(here, row);
      } else {
        here = document.importNode(row, true);
        if (here.matches("tr")) here.classList.add("fresh");
      }
      if (here === before) before = before.nextElementSibling;
      else old.insertBefore(here, before);
    }
    for (const row of known.values()) row.remove();
  }

  function hold(list, count) {
    const place = document.querySelector(`[data-held="${list.id}"]`);
    if (!place) return;
    place.hidden = !count;
    place.querySelector("button").textContent = `${count} new: show`;
  }

  function showHeld() {
    document.activeElement.blur();
    scrollTo({top: 0});
    page.etag = null;
    follow();
  }

  // ---- keys

  let chord = "";

  function move(step) {
    const rows = [...document.querySelectorAll("[data-row]")];
    const here = rows.findIndex((row) => row.contains(document.activeElement));
    const next = rows[Math.min(Math.max(here + step, 0), rows.length - 1)];
    if (next) (next.matches("a, button, summary") ? next : next.querySelector("a, button, summary"))?.focus();
  }

  function key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input, select, textarea")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const pressed = chord + event.key;
    chord = "";
    if (event.key === "g" && pressed === "g") { chord = "g "; return; }
    if (event.key === "j") return move(1);
    if (event.key === "k") return move(-1);
    if (event.key === "?") return document.getElementById("keys")?.showModal();
    if (event.key === ".") return holdLive();
    const target = document.querySelector(`[data-key="${CSS.escape(pressed)}"]`);
    if (!target) return;
    event.preventDefault();
    if (target.matches("a")) target.click();
    else { target.focus(); target.select?.(); }
  }

  function holdLive() {
    page.held = !page.held;
    if (page.held) sign("held", "held");
    else follow();
  }

  document.addEventListener("DOMContentLoaded", () => {
    page.every = Number(document.body.dataset.liveEvery || 0);
    tellTimes(document);
    setInterval(() => tellTimes(document), 1000);
    document.addEventListener("keydown", key);
    document.addEventListener("click", (event) => {
      if (event.target.closest("[data-theme-switch]")) switchTheme();
      if (event.target.closest("[data-held] button")) showHeld();
    });
    if (page.every) {
      sign("live", "live");
      setTimeout(followAlways, page.every);
      document.addEventListener("visibilitychange", () => { if (!document.hidden && page.every) follow(); });
    }
  });
})();
