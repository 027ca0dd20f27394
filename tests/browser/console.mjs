// Uses the console as people do: node console.mjs CHROMIUM STORY URL [more]. What it sees it prints, a JSON line each; where others have to do something
// first it says so and waits for a line.
import { chromium } from "playwright-core";
import AxeBuilder from "@axe-core/playwright";
import { createInterface } from "node:readline";

const [executablePath, story, url, ...more] = process.argv.slice(2);
const args = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const browser = await chromium.launch({ executablePath, args });
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const say = (what, value) => console.log(JSON.stringify({ what, value }));
const ask = async (what, value) => { say(what, value); return (await lines.next()).value; };

// Errors of pages are the story's, whatever it is about; what the network says of an answer that is a refusal is not one.
const problems = [];
async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1400, height: 900 }, colorScheme: "light", ...options });
  const page = await context.newPage();
  page.on("console", (message) => message.type() === "error" && !/Failed to load resource/.test(message.text()) && problems.push(message.text()));
  page.on("pageerror", (error) => problems.push(String(error)));
  page.on("request", (request) => request.url().startsWith(url) || problems.push(`asked elsewhere: ${request.url()}`));
  return page;
}
const go = async (page, place) => {
  await page.goto(`${url}/console/#/${place}`);
  await page.getByRole("status").filter({ hasText: "live" }).waitFor();
};
// A change, from its button to its confirmation; what the dialogue said.
async function change(page, button, reason, where = page) {
  await where.getByRole("button", { name: button, exact: true }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByRole("listitem").first().waitFor();
  const said = { effect: await dialog.getByRole("listitem").allTextContents() };
  await dialog.getByLabel("Reason").fill(reason);
  said.command = await dialog.getByLabel("Command").textContent();
  await dialog.getByRole("button", { name: "Confirm" }).click();
  await dialog.waitFor({ state: "detached" });
  return said;
}
const share = async (page) => parseFloat(await page.locator(".now .number").textContent());

const stories = {
  // A ramp moves under one's eyes, goes back by hand, is killed, and comes back.
  async ramp() {
    const page = await open();
    await go(page, "overview");
    await page.getByRole("link", { name: "moving", exact: true }).click();
    await page.getByRole("heading", { level: 1, name: "moving" }).waitFor();
    const seen = [];
    const until = Date.now() + 60_000;
    while (seen.at(-1) !== 100 && Date.now() < until) {
      const now = await share(page);
      if (now !== seen.at(-1)) seen.push(now);
      await page.waitForTimeout(100);
    }
    say("shares", seen);
    say("steps", await page.getByRole("list", { name: "Steps" }).getByRole("listitem").allTextContents());
    say("gates", await page.getByRole("region", { name: "What the gates say" }).or(page.locator("#gates")).first().textContent());
    await page.getByLabel("Share in percent").fill("75");
    say("share", await change(page, "Set…", "a quarter less"));
    say("rollback", await change(page, "Roll back…", "it looks odd"));
    await page.getByText("Rolled back", { exact: true }).waitFor();
    say("after rollback", await share(page));
    say("kill", await change(page, "Kill…", "to be sure"));
    await page.getByRole("alert").filter({ hasText: "route:moving" }).waitFor();
    say("banner", await page.getByRole("alert").first().textContent());
    say("unkill", await change(page, "Turn kill off…", "it was nothing"));
    await page.getByRole("alert").filter({ hasText: "route:moving" }).waitFor({ state: "detached" });
    say("resume", await change(page, "Resume…", "on with it"));
    await page.getByRole("link", { name: "Audit" }).click();
    await page.getByText("chain is whole").waitFor();
    say("audit", await page.getByRole("region", { name: "Changes" }).locator("tbody tr").evaluateAll((rows) => rows.map((row) => [...row.children].slice(2, 5).map((cell) => cell.textContent))));
    say("kill all", await change(page, "Kill everything…", "a drill"));
    await page.getByRole("alert").filter({ hasText: "all" }).waitFor();
    say("unkill all", await change(page, "Turn off all", "the drill is over", page.getByRole("alert")));
  },

  // A difference is looked at, and the rule that would take it as noise is copied from the page.
  async differences() {
    const page = await open();
    await go(page, "differences/fares");
    const cluster = page.locator("details.cluster").filter({ hasText: "MessageID" });
    await cluster.locator("summary").click();
    say("example", await cluster.locator(".pair").first().locator("pre").allTextContents());
    await cluster.getByRole("button", { name: "Ignore as typed rule…" }).click();
    const dialog = page.getByRole("dialog");
    await dialog.getByText("Proposed:").waitFor();
    await ask("patch", await dialog.getByLabel("YAML patch").textContent());
    await page.keyboard.press("Escape");
    await dialog.waitFor({ state: "detached" });
    await page.getByRole("button", { name: "Look again" }).click();
    // It is a difference no more; the others are.
    await page.locator("details.cluster").filter({ hasText: "Fare" }).first().waitFor();
    await page.waitForFunction(() => !document.body.textContent.includes("MessageID"));
    say("left", await page.locator("details.cluster summary code").allTextContents());
  },

  async roles() {
    const [viewer, operator] = more;
    const page = await open();
    await page.goto(`${url}/console/#/route/moving`);
    const sign = async (token) => {
      await page.getByRole("dialog").getByLabel("Token").fill(token);
      await page.getByRole("button", { name: "Use it" }).click();
    };
    await sign("nobody-has-this-token-0123456789");
    await page.getByRole("dialog").getByLabel("Token").waitFor();
    await sign(viewer);
    await page.getByText("Your role, viewer, may look and not change anything.").waitFor();
    say("viewer", { buttons: await page.getByRole("button", { name: "Roll back…" }).count(), kill: await page.getByRole("button", { name: "Kill everything…" }).isDisabled() });
    // Whatever a page lets through, the API does not.
    say("by hand", await page.evaluate(async () => {
      const answer = await fetch("/api/v1/routes/moving/rollback", { method: "POST", headers: { "Content-Type": "application/json", Authorization: `Bearer ${sessionStorage.getItem("banyan-token")}` }, body: '{"reason":"x"}' });
      return [answer.status, (await answer.json()).title];
    }));
    await page.getByRole("button", { name: "Sign out" }).click();
    await sign(operator);
    await page.getByRole("button", { name: "Roll back…" }).waitFor();
    say("operator", await page.locator(".top").textContent());
    say("hold", await change(page, "Hold…", "let me see"));
  },

  async drop() {
    const page = await open();
    await go(page, "overview");
    await ask("live", await page.locator(".board tbody tr").count());
    await page.getByRole("status").filter({ hasText: "connecting again" }).waitFor();
    await ask("lost", await page.locator(".board tbody tr").count());
    await page.getByRole("status").filter({ hasText: "live" }).waitFor({ timeout: 30_000 });
    say("again", await page.locator(".board tbody tr").count());
  },

  // Every page in both schemes, as axe and a narrow screen see it; with a folder, pictures of them.
  async pages() {
    const [folder] = more;
    const places = { overview: "overview", route: "route/moving", differences: "differences", explain: "explain?url=http%3A%2F%2Fair.example%2Fapi%2Fflights%2FBA010", audit: "audit", egress: "egress", discovery: "discovery" };
    for (const colorScheme of ["light", "dark"]) {
      const page = await open({ colorScheme });
      for (const [name, place] of Object.entries(places)) {
        await page.setViewportSize({ width: 1400, height: 900 });
        await go(page, place);
        await page.getByRole("heading", { level: 1 }).waitFor();
        if (name === "explain") {
          await page.getByRole("button", { name: "Explain" }).click();
          await page.getByRole("heading", { name: "Where it goes" }).waitFor();
        }
        if (name === "differences") await page.locator("details.cluster summary").first().click();
        if (name === "discovery") await page.locator("details.cluster summary").first().click();
        if (name === "route") await page.waitForFunction(() => document.querySelector(".chart canvas") && document.querySelector("#evidence"));
        const found = await new AxeBuilder({ page }).analyze();
        say("axe", { name, colorScheme, violations: found.violations.filter((it) => ["serious", "critical"].includes(it.impact)).map((it) => `${it.id}: ${it.nodes.map((node) => node.html).slice(0, 2).join(" | ")}`), passes: found.passes.length });
        if (folder && (colorScheme === "light" || name === "overview")) await page.screenshot({ path: `${folder}/console-${name}-${colorScheme}.png` });
        for (const width of [375, 3840]) {
          await page.setViewportSize({ width, height: 900 });
          say("width", { name, width, fits: await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth) });
          if (folder && name === "overview" && width === 375 && colorScheme === "dark") await page.screenshot({ path: `${folder}/console-narrow.png` });
        }
      }
      // A dialogue is a page too; everything in it is reached by keys, and Escape leaves it.
      await page.setViewportSize({ width: 1400, height: 900 });
      await go(page, "route/moving");
      const button = page.getByRole("button", { name: "Roll back…" });
      await button.focus();
      await page.keyboard.press("Enter");
      await page.getByRole("dialog").getByRole("listitem").first().waitFor();
      const found = await new AxeBuilder({ page }).analyze();
      say("axe", { name: "dialogue", colorScheme, violations: found.violations.filter((it) => ["serious", "critical"].includes(it.impact)).map((it) => it.id), passes: found.passes.length });
      if (folder && colorScheme === "light") await page.screenshot({ path: `${folder}/console-rollback.png` });
      await page.keyboard.press("Tab");
      say("inside", await page.evaluate(() => document.querySelector("dialog").contains(document.activeElement)));
      await page.keyboard.press("Escape");
      await page.getByRole("dialog").waitFor({ state: "detached" });
      say("focus is back", await button.evaluate((it) => it === document.activeElement));
      await page.context().close();
    }
  },

  // Five hundred routes: how soon one can use it, and what it costs while it is open.
  async many() {
    const page = await open();
    // By the page's own clock, from when it was asked for: the rows are there, one is looked for, and it alone is on the screen. (What drives the browser
    // takes as long again to start a process for the page and to ask it.)
    await page.addInitScript(() => {
      const rows = () => document.querySelectorAll(".board tbody tr").length;
      const look = (words) => {
        const find = document.querySelector("input[type=search]");
        find.value = words;
        find.dispatchEvent(new Event("input", { bubbles: true }));
      };
      const seen = new MutationObserver(() => {
        if (!globalThis.rowsAfter && rows() > 1) {
          globalThis.rowsAfter = performance.now();
          look("route-0499");
        } else if (globalThis.rowsAfter && rows() === 1) {
          seen.disconnect();
          requestAnimationFrame(() => setTimeout(() => { globalThis.usableAfter = performance.now(); look(""); }));
        }
      });
      seen.observe(document, { childList: true, subtree: true });
    });
    await page.goto(`${url}/console/`);
    say("interactive ms", await (await page.waitForFunction(() => globalThis.usableAfter)).jsonValue());
    say("rows ms", await page.evaluate(() => globalThis.rowsAfter));
    await page.getByText("of 500 routes").waitFor();
    await page.locator(".board tbody tr").nth(49).waitFor();
    const session = await page.context().newCDPSession(page);
    await session.send("Performance.enable");
    const spent = async () => (await session.send("Performance.getMetrics")).metrics.find((it) => it.name === "TaskDuration").value;
    const before = await spent();
    await ask("open", null);
    await page.waitForTimeout(10_000);
    say("page seconds of 10", (await spent()) - before);
    await ask("measured", null);
  },
};

await stories[story]();
await browser.close();
say("problems", problems);
process.exit(0);
