// Begins the page: the agent's state as it comes, panel by panel; theme and token.

import { live, setToken } from "./api.js";
import { setText } from "./dom.js";
import { gpsPanel } from "./gps.js";
import * as panels from "./panels.js";
import { signalsView } from "./signals.js";

let state = {};
const signals = signalsView();

function put(id, ...children) {
  const section = document.getElementById(id);
  (section.querySelector(".body") ?? section).replaceChildren(...children.flat(Infinity).filter(Boolean));
}

// parts are the members of the state that a panel is made of, and how.
const parts = [
  [["alarms"], () => put("alarms", panels.alarms(state.alarms, state.now))],
  [["now"], () => put("buses", panels.buses(state.buses))], // each second, for the course
  [["uplink"], () => put("uplink", panels.uplink(state.uplink, state.now.boot_ms))],
  [["queue"], () => put("queue", panels.queue(state.queue, state.now.boot_ms))],
  [["losses"], () => put("losses", panels.losses(state.losses))],
  [["receivers", "tracks"], () => put("gps", gpsPanel(state.receivers, state.tracks, state.now.boot_ms))],
  [["clock", "now"], () => put("clock", panels.clockPanel(state.clock, state.now))],
  [["collect"], () => put("collect", panels.collect(state.collect))],
  [["agent", "now", "update", "power"], () => put("versions", panels.versions(state.agent, state.now, state.update, state.power))],
  [["now"], () => put("cards", panels.cards(state, signals.rate()))],
  [["agent"], () => {
    setText(document.getElementById("device"), state.agent.device);
    document.title = `${state.agent.device} – Waybill agent`;
  }],
];

function onEvent(name, data) {
  if (name === "signals") signals.all(data);
  else if (name === "values") signals.values(data);
  else if (name === "state") {
    if (data.format !== undefined) state = data; // the whole
    else Object.assign(state, data);
    for (const [members, show] of parts) if (members.some((m) => m in data)) show();
  }
}

function theme() {
  const button = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const order = ["auto", "light", "dark"];
  const apply = () => {
    const choice = localStorage.getItem("waybill-theme") ?? "auto";
    document.documentElement.dataset.theme = choice === "dark" || (choice === "auto" && system.matches) ? "dark" : "light";
    setText(button, `Theme: ${choice}`);
    document.dispatchEvent(new Event("waybill-theme"));
  };
  button.addEventListener("click", () => {
    localStorage.setItem("waybill-theme", order[(order.indexOf(localStorage.getItem("waybill-theme") ?? "auto") + 1) % 3]);
    apply();
  });
  system.addEventListener("change", apply);
  apply();
}

function askForToken(why) {
  return new Promise((done) => {
    const dialog = document.getElementById("login"), input = document.getElementById("token");
    setText(document.getElementById("login-why"), why);
    input.value = "";
    dialog.showModal();
    dialog.addEventListener("close", () => { setToken(input.value.trim()); done(); }, { once: true });
  });
}

function onState(to, words) {
  const node = document.getElementById("live");
  node.dataset.state = to;
  setText(node, words);
}

theme();
live(onEvent, onState, askForToken);
