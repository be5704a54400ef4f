// Begins the page: views by the address behind #, theme, token, live stream.

import { get, live, onToken, setToken } from "./api.js";
import { el, replace } from "./dom.js";
import { serverNow } from "./format.js";
import { fleetView } from "./fleet.js";
import { vehicleView } from "./vehicle.js";
import { ledgerView } from "./ledger.js";

const main = document.getElementById("main");
const settings = JSON.parse(document.querySelector("meta[name=waybill-settings]").content);
let current = { stop: new AbortController(), update: null };

async function show() {
  current.stop.abort();
  const stop = new AbortController();
  const mine = (current = { stop, update: null });
  const parts = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  const name = parts[0] === "v" && parts.length === 3 ? "vehicle" : parts[0] === "ledger" ? "ledger" : "fleet";
  for (const a of document.querySelectorAll("nav a")) {
    if (a.dataset.view === name) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
  document.title = `${name === "vehicle" ? parts[2] : name === "ledger" ? "Gaps and losses" : "Fleet"} – Waybill`;
  try {
    if (name === "vehicle") mine.update = await vehicleView(main, settings, stop.signal, parts[1], parts[2]);
    else mine.update = await (name === "ledger" ? ledgerView : fleetView)(main, settings, stop.signal);
  } catch (error) {
    if (stop.signal.aborted) return;
    replace(main, el("section", { class: "card", role: "alert" }, el("h1", {}, "This cannot be shown"), el("p", {}, error.message),
      el("button", { type: "button", onclick: show }, "Try again")));
  }
}

function theme() {
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => {
    const choice = localStorage.getItem("waybill-theme") ?? "auto";
    const dark = choice === "dark" || (choice === "auto" && system.matches);
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    button.textContent = `Theme: ${choice}`;
    document.dispatchEvent(new Event("waybill-theme"));
  };
  button.addEventListener("click", () => {
    const order = ["auto", "light", "dark"];
    localStorage.setItem("waybill-theme", order[(order.indexOf(localStorage.getItem("waybill-theme") ?? "auto") + 1) % 3]);
    apply();
  });
  system.addEventListener("change", apply);
  apply();
}

let asking = null;
onToken((why) => {
  asking ??= new Promise((done) => {
    const dialog = document.getElementById("login"), input = document.getElementById("token");
    document.getElementById("login-why").textContent = why;
    input.value = "";
    dialog.showModal();
    dialog.addEventListener("close", () => { setToken(input.value.trim()); asking = null; done(); }, { once: true });
  });
  return asking;
});

theme();
const state = document.getElementById("live");
const setState = (to, words) => {
  if (state.dataset.state === to) return;
  const back = state.dataset.state === "off" && to === "on";
  state.dataset.state = to;
  state.textContent = words;
  if (back) show(); // what was missed meanwhile is read anew
};
window.addEventListener("hashchange", () => { show(); main.focus(); });
get("/access").then((a) => serverNow(a.now)).catch(() => {}).finally(() => {
  show();
  live((update) => { serverNow(update.now); current.update?.(update); }, setState, new AbortController().signal);
});
