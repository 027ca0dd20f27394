// A browser that goes out by a proxy: node through.mjs CHROMIUM PROXY URL [USER PASSWORD]; prints what the page says, or the error.
import { chromium } from "playwright-core";

const [executablePath, server, url, username, password] = process.argv.slice(2);
// Without the bypass rule a browser asks nobody for a way to this machine.
const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath, args, proxy: { server, bypass: "<-loopback>", username, password } });
const context = await browser.newContext({ ignoreHTTPSErrors: true });
const page = await context.newPage();
try {
  await page.goto(url, { timeout: 20000 });
  console.log(await page.innerText("body"));
} catch (error) {
  console.log(error.message.split("\n")[0]);
}
await browser.close();
