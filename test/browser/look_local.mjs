// Looks at the agent's local page as a person would, and says what was found: harness.mjs. It asks the test to take the agent
// away and bring it back ("no agent", "agent"), and likewise the broker ("no broker", "broker").

import { ask, end, errors, everythingNamed, newPage, notWider, shot, step, text, url, whileAway } from "./harness.mjs";

const speed = 'tr[data-signal="can0.DriveCounter.VehicleSpeed"]';
const cell = (page, row, kind) => page.locator(`${row} .${kind}`).innerText();
const becomes = (page, selector, pattern, timeout = 30000) => page.waitForFunction(([s, p]) => {
  const node = document.querySelector(s);
  return node && new RegExp(p).test(node.innerText.replaceAll("\n", " "));
}, [selector, pattern.source], { timeout });

const page = await newPage({ viewport: { width: 1400, height: 900 } });
await step("open", async () => { await page.goto(url); await page.locator('#live[data-state="on"]').waitFor(); });
await step("live signal", async () => { await becomes(page, `${speed} .value`, /\d/); return cell(page, speed, "value"); });
await step("it moves", async () => {
  const counter = 'tr[data-signal="can0.DriveCounter.FrameCounter"]';
  await becomes(page, `${counter} .value`, /\d/);
  const before = await cell(page, counter, "value");
  await page.waitForFunction(([s, b]) => document.querySelector(s).innerText !== b, [`${counter} .value`, before]);
  await becomes(page, `${counter} .rate`, /\d+\/s/);
  return `${before} ${await cell(page, counter, "value")}, ${await cell(page, counter, "rate")}`;
});
await step("what does not change is there", async () => {
  // A frame that repeats itself is left out on its way; who looks is to see it all the same.
  await page.waitForFunction(() => [...document.querySelectorAll('tr[data-signal^="can0."] .value')].every((n) => n.innerText !== "not seen yet"));
});
await step("alarm at the top", async () => {
  await page.locator(".alarms li", { hasText: "uplink.insecure" }).waitFor();
  const [alarm, cards] = await Promise.all([page.locator("#alarms").boundingBox(), page.locator("#cards").boundingBox()]);
  return alarm.y < cards.y;
});
await step("bus", async () => { await becomes(page, '[data-bus="can0"]', /replay.*[1-9]\d* frames\/s/); return (await text(page, ".load")).replaceAll("\n", " "); });
await step("uplink in words", async () => { await becomes(page, "#uplink", /online to mqtt.*Receipts [1-9].*it has [1-9]/); });
await step("round trip", async () => { await becomes(page, "#uplink", /Round trip [\d.]+ ms/); });
await step("fix", async () => { await becomes(page, '[data-receiver="gps0"]', /3D.*Position \d+\.\d+° [NS], \d+\.\d+° [EW]/); });
await step("sky", async () => { await page.locator("svg.sky g.used").nth(3).waitFor({ state: "attached" }); return page.locator("svg.sky g").count(); });
await step("track", async () => { await page.locator("svg.track path.way").waitFor({ state: "attached", timeout: 60000 }); });
await step("queue", async () => { await becomes(page, "#queue", /telemetry.*On disk [\d.]+ [kM]B of .*Last commit/); });
await step("clock", async () => { await becomes(page, "#clock", /Time \d{4}-.*By .*Good to/); return (await text(page, "#clock")).replaceAll("\n", " "); });
await step("losses", async () => { await becomes(page, "#losses", /Losses\s+\S/); return (await text(page, "#losses")).replaceAll("\n", " "); });
await step("collected", async () => { await becomes(page, "#collect", /\*\.FrameCounter.*every sample.*overspeed.*above 120/); });
await step("versions", async () => { await becomes(page, "#versions", /demo\/demo-car.*epoch [0-9a-f]{16}/); });
await step("sparkline", async () => { await page.waitForFunction((s) => (document.querySelector(`${s} .spark path`).getAttribute("d") ?? "").split("L").length > 5, speed); });
await step("search", async () => {
  const all = await page.locator("tr[data-signal]").count();
  await page.getByLabel("Search signals").fill("speed km");
  await page.waitForFunction((n) => { const now = document.querySelectorAll("tr[data-signal]").length; return now > 0 && now < n; }, all);
  const some = await page.locator("tr[data-signal]").count();
  await page.getByLabel("Search signals").fill("no such thing");
  await page.getByText("No signal has such a name").waitFor();
  await page.getByLabel("Search signals").fill("");
  await page.waitForFunction((n) => document.querySelectorAll("tr[data-signal]").length === n, all);
  return `${some} of ${all}`;
});
await step("chart by keyboard", async () => {
  await page.locator(`${speed} button`).focus();
  await page.keyboard.press("Enter");
  await page.locator(".chart canvas").waitFor();
  return (await page.locator(`${speed} button`).getAttribute("aria-pressed")) === "true";
});
await step("second chart, and closed", async () => {
  await page.locator('tr[data-signal="can0.DriveCounter.FrameCounter"] button').click();
  await page.locator(".chart canvas").nth(1).waitFor();
  await page.getByLabel("Close the chart of can0.DriveCounter.FrameCounter").click();
  await page.waitForFunction(() => document.querySelectorAll(".chart").length === 1);
});
await step("every control has a name", () => everythingNamed(page));
await page.waitForTimeout(process.env.LONG ? 45000 : 3000); // for the pictures
await shot(page, "local-desktop");

// The broker goes: the queue grows, and the uplink says why.
await step("no broker", async () => {
  await ask("no broker");
  await becomes(page, "#uplink", /(offline|connecting|refused)/);
  await becomes(page, "#queue", /Oldest [\d.]+ (s|min)/);
  return (await text(page, "#uplink p")).replaceAll("\n", " ");
});
await shot(page, "local-offline", false);
await step("broker again", async () => { await ask("broker"); await becomes(page, "#uplink", /online to mqtt/, 60000); });

// The agent goes and comes back; what was chosen stays.
await step("restart", async () => {
  await page.evaluate(() => { document.body.dataset.old = "yes"; });
  const runs = () => text(page, "#versions");
  const before = /Runs for ([^,]*)/.exec((await runs()).replaceAll("\n", " "))?.[1];
  await whileAway(async () => {
    await ask("no agent");
    await page.locator('#live[data-state="off"]').waitFor();
    await ask("agent");
    await page.locator('#live[data-state="on"]').waitFor({ timeout: 60000 });
  });
  await becomes(page, "#versions", /Runs for [\d.]+ s/);
  await becomes(page, `${speed} .value`, /\d/);
  if ((await page.locator(".chart canvas").count()) !== 1) throw new Error("the chart is gone");
  return (await page.evaluate(() => document.body.dataset.old)) === "yes" ? before : false;
});
await step("values go on", async () => {
  const before = await cell(page, 'tr[data-signal="can0.DriveCounter.FrameCounter"]', "value");
  await page.waitForFunction((b) => document.querySelector('tr[data-signal="can0.DriveCounter.FrameCounter"] .value').innerText !== b, before);
});

// Dark, and a phone of 375 px.
const dark = await newPage({ viewport: { width: 1400, height: 900 }, colorScheme: "dark" });
await step("dark", async () => {
  await dark.goto(url);
  await becomes(dark, `${speed} .value`, /\d/);
  await dark.locator(`${speed} button`).click();
  await dark.locator(".chart canvas").waitFor();
  await dark.waitForTimeout(3000); // for the picture
  const colour = await dark.evaluate(() => getComputedStyle(document.body).backgroundColor);
  return /^rgb\((\d+), (\d+), (\d+)\)$/.exec(colour).slice(1).every((c) => c < 60);
});
await shot(dark, "local-dark");
for (const colorScheme of ["light", "dark"]) {
  const phone = await newPage({ viewport: { width: 375, height: 740 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2, colorScheme });
  await step(`phone ${colorScheme}`, async () => {
    await phone.goto(url);
    await becomes(phone, `${speed} .value`, /\d/);
    await phone.locator(`${speed} button`).tap();
    await phone.locator(".chart canvas").waitFor();
    await becomes(phone, '[data-receiver="gps0"]', /3D/);
    await notWider(phone);
  });
  for (const part of ["main", "signals", "gps", "queue"]) {
    await phone.locator(`#${part}`).evaluate((n) => n.scrollIntoView());
    await shot(phone, `local-phone-${colorScheme}-${part}`, false);
  }
}
await step("nothing of it is in the way of others", async () => { // a page of another origin
  const answer = await page.request.get(`${url}api/state`, { headers: { Origin: "http://example.com" } });
  const rebound = await page.request.get(`${url}api/state`, { headers: { Host: "example.com" } });
  return answer.status() === 403 && rebound.status() === 403 && errors.length === 0 ? "" : `${answer.status()} ${rebound.status()}`;
});
await end();
