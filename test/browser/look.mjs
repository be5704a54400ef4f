// Clicks through the fleet page as a person would, and says what was found: harness.mjs. It asks the test to restart the server
// ("restart") and to let a car drive on ("more").
//
//     node look.mjs PLAYWRIGHT-CORE CHROMIUM URL FOLDER

import { ask, end, errors, everythingNamed, newPage, notWider, shot, step, text, url, whileAway } from "./harness.mjs";

// The fleet.
const page = await newPage({ viewport: { width: 1400, height: 900 } });
await step("open", async () => { await page.goto(url); await page.locator("a.row").first().waitFor(); });
await step("totals", async () => {
  const t = await text(page, ".cards");
  return /12 \/ 13/.test(t) && /5\s*batches missing/.test(t) && /3\s*entries/.test(t) && /2\s*batches parked/.test(t) && /1\s*dead/.test(t) ? t.replaceAll("\n", " ") : false;
});
await step("list", async () => (await page.locator("a.row").count()) === 13);
await step("map", async () => (await page.locator("path.vehicle").count()) === 12 && (await page.locator("path.graticule").count()) > 4);
await step("live", async () => { await page.locator('#live[data-state="on"]').waitFor(); });
await shot(page, "fleet");
await step("search", async () => {
  await page.getByLabel("Search vehicles").fill("van");
  await page.waitForFunction(() => document.querySelectorAll("a.row").length === 1);
  await page.getByLabel("Search vehicles").fill("");
  await page.waitForFunction(() => document.querySelectorAll("a.row").length === 13);
});
await step("filter", async () => {
  await page.getByLabel("Which vehicles").selectOption("offline");
  await page.waitForFunction(() => document.querySelectorAll("a.row").length === 1);
  await page.getByLabel("Which vehicles").selectOption("");
});
await step("live update", async () => {
  const before = await text(page, ".cards li:nth-child(3) b");
  await ask("more");
  await page.waitForFunction((b) => document.querySelector(".cards li:nth-child(3) b").innerText !== b, before);
});

// A vehicle, by the dot on the map and by the list.
await step("click on the map", async () => {
  await page.locator("path.vehicle.offline").first().click({ force: true });
  await page.locator("h1", { hasText: "car-03" }).waitFor();
});
await step("late in words", async () => {
  const t = page.getByText("it may be late");
  await t.first().waitFor();
  return (await text(page, "dl.facts")).includes("40 batches");
});
await step("back to the list", async () => { await page.locator("nav a", { hasText: "Fleet" }).click(); await page.locator("a.row", { hasText: "car-04" }).click(); await page.locator("h1", { hasText: "car-04" }).waitFor(); });
await step("track", async () => { await page.locator("path.track").first().waitFor(); return (await text(page, ".map.small + p")).includes("gps0"); });
await step("charts", async () => { await page.locator(".chart canvas").nth(1).waitFor(); });
await step("trips", async () => { await page.locator("table", { hasText: "km/h" }).first().waitFor(); return (await page.getByTitle("Show this trip").count()) >= 4; });
await step("events", async () => (await page.getByText("harsh braking").count()) === 1);
await step("losses in words", async () => (await page.getByText("412 frames: kernel drop").count()) === 1 && (await page.getByText("at most 1,000 samples: unclean stop").count()) === 1);
await step("sparklines", async () => { await page.getByLabel("Search signals").scrollIntoViewIfNeeded(); await page.locator("td[data-signal]").nth(3).scrollIntoViewIfNeeded(); await page.locator("svg.spark path").nth(2).waitFor({ state: "attached" }); });
await shot(page, "vehicle");
await step("choose a signal", async () => {
  await page.getByLabel("Search signals").fill("MotorPower");
  await page.getByLabel("Chart of can0.MotorState.MotorPower").check();
  await page.locator(".chart h3", { hasText: "MotorPower" }).waitFor();
});
await step("zoom by dragging", async () => {
  const box = await page.locator(".chart .u-over").first().boundingBox();
  await page.mouse.move(box.x + box.width * 0.4, box.y + 40);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width * 0.6, box.y + 60, { steps: 6 });
  await page.mouse.up();
  await page.locator(".bar .soft", { hasText: " to " }).waitFor();
});
await step("a trip", async () => { await page.getByRole("button", { name: "24 h" }).click(); await page.getByTitle("Show this trip").first().click(); await page.locator(".bar .soft", { hasText: " to " }).waitFor(); });
await shot(page, "trip");
await step("undated is said", async () => {
  await page.goto(`${url}#/v/acme/car-06`);
  await page.getByText("none that is believed").waitFor();
  const facts = await text(page, "dl.facts");
  if (!/undated/.test(facts) || !/no GPS fix/.test(facts)) throw new Error(facts);
});
await step("nobody", async () => { await page.goto(`${url}#/v/acme/nobody`); await page.getByText("This cannot be shown").waitFor(); errors.splice(0, errors.length, ...errors.filter((e) => !e.includes("404"))); });
await step("ledger", async () => {
  await page.locator("nav a", { hasText: "Gaps" }).click();
  await page.getByText("waits for its catalogue").first().waitFor();
  return (await page.getByText("did not come and stand in no ledger").count()) === 2;
});
await shot(page, "ledger");

// By keyboard alone.
await step("keyboard", async () => {
  await page.goto(`${url}#/`);
  await page.locator("a.row").first().waitFor();
  await page.locator("a.row").first().focus();
  await page.keyboard.press("Enter");
  await page.locator("h1", { hasText: "car-01" }).waitFor();
});
await step("every control has a name", () => everythingNamed(page));

// The server goes and comes back.
await step("restart", async () => {
  await whileAway(async () => {
    await ask("restart");
    await page.locator('#live[data-state="on"]').waitFor({ timeout: 30000 });
  });
  await page.locator("nav a", { hasText: "Fleet" }).click();
  await page.locator("a.row").nth(12).waitFor();
});

// Dark, and a phone.
const dark = await newPage({ viewport: { width: 1400, height: 900 }, colorScheme: "dark" });
await step("dark", async () => {
  await dark.goto(`${url}#/v/acme/car-02`);
  await dark.locator(".chart canvas").first().waitFor();
  const colour = await dark.evaluate(() => getComputedStyle(document.body).backgroundColor);
  return /^rgb\((\d+), (\d+), (\d+)\)$/.exec(colour).slice(1).every((c) => c < 60);
});
await shot(dark, "dark");
await step("dark fleet", async () => { await dark.goto(`${url}#/`); await dark.locator("a.row").first().waitFor(); });
await shot(dark, "dark-fleet", false);
const phone = await newPage({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 });
for (const [name, path] of [["phone-fleet", "#/"], ["phone-vehicle", "#/v/acme/car-01"], ["phone-ledger", "#/ledger"]]) {
  await step(name, async () => {
    await phone.goto(url + path);
    await phone.locator(path === "#/" ? "a.row" : path === "#/ledger" ? "table" : ".chart canvas").first().waitFor();
    await notWider(phone);
  });
  await shot(phone, name);
}

await end();
