// Gaps, losses, parked batches and dead letters of the whole fleet, in words.

import { get } from "./api.js";
import { el, replace, table } from "./dom.js";
import * as fmt from "./format.js";

export const vehicleLink = (r) => el("a", { href: `#/v/${encodeURIComponent(r.tenant)}/${encodeURIComponent(r.device)}` }, r.device);

export async function ledgerView(main, settings, signal) {
  const part = (title, hint) => {
    const body = el("div", {}, el("p", { class: "hint" }, "Loading …"));
    return { body, section: el("section", { class: "card" }, el("h2", {}, title), el("p", { class: "soft" }, hint), body) };
  };
  const gaps = part("Gaps", "Numbers that neither came nor stand in a loss ledger: late as long as the vehicle may still have them, lost otherwise.");
  const losses = part("Losses", "What the vehicles themselves say was lost, and why.");
  const parked = part("Parked", "Batches that came and cannot be read yet. Nothing of them is lost.");
  const letters = part("Dead letters", "What could not be taken, kept for a look.");
  replace(main, el("h1", {}, "Gaps and losses"), el("div", { class: "halves" }, gaps.section, losses.section, parked.section, letters.section));

  const fill = async (into, path, caption, columns, empty) => {
    const rows = [];
    let cursor = "";
    const more = async () => {
      const page = await get(path, { limit: 100, cursor }, signal);
      rows.push(...page.items);
      cursor = page.next;
      replace(into.body, table(caption, columns, rows, empty, false), cursor && el("button", { type: "button", onclick: () => more() }, "More"));
    };
    await more();
  };
  const load = () => Promise.all([
    fill(gaps, "/gaps", "Gaps", [["Vehicle", vehicleLink], ["What", fmt.gap]], "No gaps: every number came or is accounted for."),
    fill(losses, "/losses", "Losses", [["Vehicle", vehicleLink], ["Told", (l) => fmt.clock(l.recorded)], ["What", fmt.loss]], "The ledgers are empty."),
    fill(parked, "/parked", "Parked", [["Vehicle", vehicleLink], ["Came", (p) => fmt.clock(p.received)], ["What", fmt.parked]], "Nothing is parked."),
    fill(letters, "/dead-letters", "Dead letters", [["Last", (l) => fmt.clock(l.last)], ["Topic", (l) => l.topic, "name"], ["Why", (l) => `${l.reason}: ${l.detail}`, "name"],
      ["Times", (l) => fmt.count(l.times), "number"]], "Nothing was refused."),
  ]);
  await load();
  let counted = null;
  return (update) => {
    const c = update.counts, now = [c.gaps, c.losses, c.parked, c.dead_letters].join("/");
    if (counted !== null && counted !== now) load().catch(() => {});
    counted = now;
  };
}
