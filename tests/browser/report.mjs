// Looks at a report as a reader would: node report.mjs CHROMIUM FILE.html SCREENSHOT.png; prints what it saw as JSON.
import { chromium } from "playwright-core";
import { pathToFileURL } from "node:url";

const [executablePath, file, screenshot] = process.argv.slice(2);
const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath, args });
const page = await (await browser.newContext({ offline: true, colorScheme: "light" })).newPage();
const problems = [], requests = [];
page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
page.on("pageerror", (error) => problems.push(String(error)));
page.on("request", (request) => requests.push(request.url()));
await page.goto(pathToFileURL(file).href);
const look = () => page.evaluate(() => ({
  verdict: document.getElementById("verdict").textContent,
  shown: [...document.querySelectorAll("#differences details")].filter((it) => !it.hidden).map((it) => it.querySelector("summary").textContent),
  rows: document.querySelectorAll("#requests tbody tr").length,
  count: document.getElementById("count").textContent,
  back: getComputedStyle(document.body).backgroundColor,
}));
const seen = { title: await page.title(), all: await look() };
await page.fill("#search", "tier");
seen.searched = await look();
await page.fill("#search", "no such thing anywhere");
seen.nothing = await look();
await page.fill("#search", "");
await page.selectOption("#kind", { index: 1 });
seen.kind = await look();
await page.selectOption("#kind", { index: 0 });
const first = page.locator("#differences details").first();
await first.locator("summary").click();
await first.locator(".pair").first().waitFor();
seen.pair = await first.locator(".pair").first().evaluate((pair) => [...pair.querySelectorAll("pre")].map((pre) => ({ lines: pre.children.length, changed: [...pre.querySelectorAll(".changed")].map((it) => it.textContent) })));
await page.click("#theme");
seen.dark = await look();
await page.keyboard.press("Tab");
seen.width = await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
await page.setViewportSize({ width: 390, height: 800 });
seen.narrow = await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
await page.setViewportSize({ width: 1280, height: 900 });
await page.screenshot({ path: screenshot });
await browser.close();
console.log(JSON.stringify({ ...seen, problems, requests }));
