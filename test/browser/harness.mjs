// What the scripts here have in common: a browser, and words on standard output, one JSON object a line: {"step", "ok", "detail"}
// of what was found, {"ask"} of what the test is to do, which it answers with a line.
//
//     node SCRIPT PLAYWRIGHT-CORE CHROMIUM URL FOLDER

import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { join } from "node:path";

const [core, executablePath, address, folder] = process.argv.slice(2);
const { chromium } = (await import(pathToFileURL(join(core, "index.js")))).default;

export const url = address;
const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
export const ask = async (what) => { console.log(JSON.stringify({ ask: what })); await answers.next(); };
export const say = (step, ok, detail = "") => console.log(JSON.stringify({ step, ok: Boolean(ok), detail: String(detail) }));

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] });
const hosts = new Set();
export const errors = [];
let away = false;

// whileAway: the server is away on purpose; what the browser says of that is no error of the page.
export async function whileAway(f) {
  away = true;
  try { return await f(); } finally { away = false; }
}

export async function newPage(options) {
  const context = await browser.newContext({ locale: "en-GB", timezoneId: "UTC", reducedMotion: "reduce", ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(20000);
  page.on("request", (r) => { if (!r.url().startsWith("data:")) hosts.add(new URL(r.url()).host); });
  page.on("console", (m) => { if (m.type() === "error" && !away) errors.push(m.text()); });
  page.on("pageerror", (e) => errors.push(String(e.stack ?? e)));
  return page;
}

export const shot = (page, name, fullPage = true) => page.screenshot({ path: join(folder, `${name}.png`), fullPage });
export const text = (page, selector) => page.locator(selector).first().innerText();
export const step = async (name, f) => { try { const r = await f(); say(name, r !== false, r === false ? "not so" : (r ?? "")); } catch (e) { say(name, false, e); } };

// notWider throws when a page has to be scrolled sideways.
export async function notWider(page) {
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  if (wide > 1) throw new Error(`${wide} px wider than the screen`);
}

// everythingNamed says whether every control has a name that can be read out.
export const everythingNamed = (page) => page.evaluate(() => [...document.querySelectorAll("button, input, select, a[href]")]
  .every((n) => (n.ariaLabel ?? n.getAttribute("aria-label") ?? "").trim() || n.innerText.trim() || n.closest("label") || n.title));

// end says what holds of everything: no other host was asked, and the console stayed silent.
export async function end() {
  say("hosts", hosts.size === 1 && hosts.has(new URL(url).host), [...hosts].join(" "));
  say("console", errors.length === 0, errors.join(" | "));
  await browser.close();
  process.exit(0);
}
