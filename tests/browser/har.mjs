// Real traffic of a browser, recorded by it: node har.mjs CHROMIUM URL OUT.har
import { chromium } from "playwright-core";

const [executablePath, url, path] = process.argv.slice(2);
const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath, args });
const context = await browser.newContext({ recordHar: { path, content: "embed" }, locale: "de-DE" });
const page = await context.newPage();
await page.goto(`${url}/`);
await page.fill("input[name=from]", "ICN");
await page.fill("input[name=to]", "NRT");
await page.click("button");
await page.waitForURL("**/flights?*");
await page.goto(`${url}/kr/notice`);
const seen = await page.evaluate(async () => {
  const get = async (path) => (await (await fetch(path)).json());
  const flights = (await get("/api/flights?from=ICN&to=NRT")).flights;
  for (const flight of flights) await get(`/api/flights/${flight.id}`);
  for (let n = 0; n < 12; n++) await get(`/api/loyalty/member-${n}`);
  await fetch("/api/bookings", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ flight: flights[0].id, passenger: "Kim" }) });
  return flights.length;
});
await context.close();
await browser.close();
console.log(seen);
